# Events that are well, fail at first, never end, and take 20 ms.
function data = one (event)
  data = event.data;
endfunction
bridge_on ("n", @one);

function data = flaky (event)
  if (event.attempt == 1) error ("the first attempt fails"); endif
  data = event.data;
endfunction
bridge_on ("flaky", @flaky);

function hang (event)
  while (true) endwhile
endfunction
bridge_on ("hang", @hang);

function data = slow (event)
  pause (0.02);
  data = event.data;
endfunction
bridge_on ("slow", @slow);
