1; # What `kernelbridge bench` measures.

function answer = work (record)
  answer = struct ("id", record.id, "text", upper (record.text), "value", record.value + 1);
endfunction

function answers = batch (records)
  # Objects with the same keys arrive as a struct array.
  if (iscell (records))
    answers = cellfun (@work, records, "UniformOutput", false);
  else
    answers = arrayfun (@work, records, "UniformOutput", false);
  endif
endfunction

function answers = many (events)
  if (iscell (events))
    answers = cellfun (@(event) work (event.data), events, "UniformOutput", false);
  else
    answers = arrayfun (@(event) work (event.data), events, "UniformOutput", false);
  endif
endfunction

function answer = nested (record)
  answer = work (record);
  answer.value = bridge_call ("host.plus_one", record.value);
endfunction

function table = columns (table)
  table.text = upper (table.text);
  table.value += 1;
endfunction

function value = calls (count)
  value = 0;
  for i = 1:count
    value = bridge_call ("host.plus_one", value);
  endfor
endfunction

function result = nest (depth)
  result = 0;
  if (depth > 0)
    result = bridge_call ("host.nest", depth - 1) + 1;
  endif
endfunction

bridge_export ("unary", @work);
bridge_export ("batch", @batch);
bridge_export ("nested", @nested);
bridge_export ("calls", @calls);
bridge_export ("nest", @nest);
bridge_on ("bench.one", @(event) work (event.data));
bridge_on ("bench.many", @many, "batch", 1000);
bridge_on ("bench.columns", @columns, "batch", "columns");
