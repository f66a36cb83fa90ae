program work
  use omp_lib
  implicit none
  integer :: n, i
  double precision :: part(8)
  open (10, file="result")
  do n = 1, 80
    !$omp parallel do
    do i = 1, 8
      part(i) = heavy(i + n)
    end do
    write (*, '(a,i0,f20.12)') "step ", n, sum(part)
    write (10, *) n, part
    flush (6)
    flush (10)
    call execute_command_line("sleep 0.05")
  end do
contains
  pure double precision function heavy(seed)
    integer, intent(in) :: seed
    integer :: k
    heavy = seed
    do k = 1, 400000
      heavy = 3.9d0 * (heavy / (1d0 + abs(heavy))) * (1d0 - heavy / (1d0 + abs(heavy))) + 1d-3
    end do
  end function
end program
