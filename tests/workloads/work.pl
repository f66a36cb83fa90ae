# Forks, a pipe, a hash, an alarm.
use strict;
use warnings;
use IO::Handle;
$| = 1;
my ($ticks, %seen) = (0);
$SIG{ALRM} = sub { $ticks++ };
pipe(my $from, my $to) or die;
my $child = fork();
if ($child == 0) {
    close $from;
    $to->autoflush(1);
    for my $n (0 .. 59) { print $to $n * $n, "\n"; select undef, undef, undef, 0.1; }
    exit 7;
}
close $to;
while (my $line = <$from>) {
    chomp $line;
    $seen{$line % 17} .= " $line";
    print "step $line ", length $seen{$line % 17}, "\n";
    # Two seconds before the end, so that it is not chance which comes first.
    alarm 1 if $line == 1600;
}
waitpid $child, 0;
print "child ", $? >> 8, " ", join(",", sort { $a <=> $b } keys %seen), " ticks ", $ticks > 0 ? "some" : "none", "\n";
