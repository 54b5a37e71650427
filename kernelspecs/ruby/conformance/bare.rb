# Stands in for IRuby, which no registry here carries: evaluates each line of standard input as the kernel would the code
# of an execute_request, and answers each with one line, `ok` or `error <class>: <message>`.
# run: KERNELBRIDGE_DIR=<folder with shim.rb and the two FIFOs> ruby bare.rb
replies = $stdout.dup # what author code prints goes to $stdout, which a test may want apart
replies.sync = true
STDIN.each_line(chomp: true) do |code|
  TOPLEVEL_BINDING.eval(code, "(cell)")
  replies.puts("ok")
rescue Exception => e # rubocop:disable Lint/RescueException -- the kernel survives `exit` and SIGINT too
  replies.puts("error #{e.class}: #{e.message.inspect}")
end
