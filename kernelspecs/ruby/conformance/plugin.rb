# The conformance plugin: the same exports and handlers in every language.

require "base64"

# hello(name) -> a greeting
bridge.export def hello(name)
  "#{bridge.config["greeting"]}, #{name} from ruby"
end

bridge.export("identity") { |x| x }
bridge.export("fail") { |message| raise ArgumentError, message }

bridge.export("print_both") do |text|
  $stdout.puts text
  $stderr.puts text
end

if defined?(IRuby)
  PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
  bridge.export("plot") do
    IRuby.display(Base64.decode64(PNG), mime: "image/png")
    nil
  end
end

bridge.export("call_host") { |name, args| bridge.call(name, *args) }

bridge.export("try_call") do |name, args|
  bridge.call(name, *args)
rescue bridge::Error => e
  { kind: e.kind, message: e.message }
end

bridge.export("nest") { |n| n <= 0 ? 0 : bridge.call("test.nest", n) + 0 }

bridge.export("increment") do |key, times|
  last = nil
  times.times { last = bridge.state.update(key, 0) { |n| n + 1 } }
  last
end

bridge.export("state_roundtrip") do |key, value|
  bridge.state.set(key, value)
  got = bridge.state.get(key)
  bridge.state.delete(key)
  got
end

bridge.export("emit_one") { |topic, data| bridge.emit(topic, data) }
bridge.export("log_one") { |level, message| bridge.log.public_send(level, message) }

bridge.export("busy") do |seconds|
  stop = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
  nil while Process.clock_gettime(Process::CLOCK_MONOTONIC) < stop
end

bridge.export("sleep") { |seconds| sleep(seconds) && nil }

bridge.export("keyboard") { gets&.chomp }

bridge.export("exit_now") { exit!(3) }

bridge.on("conf.echo") { |event| { topic: event.topic, data: event.data, attempt: event.attempt } }
bridge.on("conf.batch", batch: 10) { |events| events.map { |event| event.data["n"] * 2 } }
bridge.on("conf.once") { |event| Array.new(2) { bridge.state.update("once", 0, once: event) { |n| n + 1 } }.last }
bridge.on("conf.fail") { raise "conf.fail always fails" }

bridge.filter("conf.filter", priority: 10) do |event|
  next if event.data["drop"]
  event.data["path"] << "ruby"
  event
end

bridge.on_shutdown { bridge.state.set("shutdown/ruby", true) }
