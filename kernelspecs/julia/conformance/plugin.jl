# The conformance plugin: the same exports and handlers in every language.

using Base64

"""hello(name) -> a greeting"""
hello(name) = "$(bridge.config["greeting"]), $name from julia"
bridge.export("hello", hello)

bridge.export(identity, "identity")

bridge.export(sum, "sum")

bridge.export("fail") do message
    error(message)
end

bridge.export("print_both") do text
    println(text)
    println(stderr, text)
end

struct Png
    bytes::Vector{UInt8}
end
Base.show(io::IO, ::MIME"image/png", png::Png) = write(io, png.bytes)

bridge.export("plot") do
    display(MIME("image/png"), Png(base64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")))
    nothing
end

bridge.export("call_host") do name, args
    bridge.call(name, args...)
end

bridge.export("try_call") do name, args
    try
        bridge.call(name, args...)
    catch e
        e isa bridge.Error || rethrow()
        Dict("kind" => e.kind, "message" => e.message)
    end
end

bridge.export("nest") do n
    n <= 0 ? 0 : bridge.call("test.nest", n) + 0
end

bridge.export("increment") do key, times
    last = nothing
    for _ in 1:times
        last = bridge.state.update(n -> n + 1, key, 0)
    end
    last
end

bridge.export("state_roundtrip") do key, value
    bridge.state.set(key, value)
    got = bridge.state.get(key)
    bridge.state.delete(key)
    got
end

bridge.export("emit_one") do topic, data
    bridge.emit(topic, data)
end

bridge.export("log_one") do level, message
    getproperty(bridge.log, Symbol(level))(message)
end

bridge.export("busy") do seconds
    stop = time() + seconds
    while time() < stop
    end
end

bridge.export("sleep") do seconds
    sleep(seconds)
end

bridge.export("keyboard") do
    readline()
end

bridge.export("exit_now") do
    ccall(:kill, Cint, (Cint, Cint), getpid(), 9)
end

bridge.on("conf.echo") do event
    Dict("topic" => event["topic"], "data" => event["data"], "attempt" => event["attempt"])
end

bridge.on("conf.batch"; batch = 10) do events
    [event["data"]["n"] * 2 for event in events]
end

bridge.on("conf.fail") do event
    error("conf.fail always fails")
end

bridge.filter("conf.filter", 10) do event
    get(event["data"], "drop", false) == true && return nothing
    push!(event["data"]["path"], "julia")
    event
end

bridge.on("conf.async") do event
    fetch(@async (sleep(0.01); "async-ok"))
end

bridge.on_shutdown() do
    bridge.state.set("shutdown/julia", true)
end
