# Writes GROMACS's input: 1,000 argon atoms on a lattice, which melt, and what grompp makes of them.
#   sh gromacs.sh STEPS
set -eu
cat >topol.top <<'END'
[ defaults ]
1 1 no 1.0 1.0
[ atomtypes ]
AR 39.948 0.0 A 0.0062220 9.6975e-06
[ moleculetype ]
AR 1
[ atoms ]
1 AR 1 AR AR 1 0.0 39.948
[ system ]
argon
[ molecules ]
AR 1000
END
cat >md.mdp <<END
integrator = md
dt = 0.002
nsteps = $1
nstxout-compressed = 500
nstenergy = 500
nstlog = 500
nstcalcenergy = 100
cutoff-scheme = Verlet
coulombtype = Cut-off
rcoulomb = 1.0
rvdw = 1.0
gen-vel = yes
gen-temp = 300
gen-seed = 17
END
awk 'BEGIN {
    print "argon"; print 1000
    for (n = 0; n < 1000; n++)
        printf "%5d%-5s%5s%5d%8.3f%8.3f%8.3f\n", n + 1, "AR", "AR", n + 1, n % 10 * 0.37, int(n / 10) % 10 * 0.37, int(n / 100) * 0.37
    print "3.7 3.7 3.7"
}' >conf.gro
gmx -quiet grompp -f md.mdp -c conf.gro -p topol.top -o topol.tpr -maxwarn 2 >grompp.out 2>&1 || { cat grompp.out >&2; exit 1; }
rm -f mdout.mdp grompp.out conf.gro topol.top md.mdp
