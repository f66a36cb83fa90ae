rand("twister", 7);
state = rand(120);
for n = 1:60
  state = state * rand(120);
  state /= norm(state);
  printf("step %d %.6f\n", n, trace(state));
  fflush(stdout);
  pause(0.15);
end
