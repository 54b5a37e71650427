# kernelbridge's shim for Julia: runs inside IJulia and serves a plugin's handlers (docs/protocol.md).
# It leaves one name in the kernel's Main, the module `bridge`, which is bound in the author's own module too.
# All reading and writing is done in tasks of its own: IJulia throws an interrupt into the task of the turn wherever it
# waits, and there it must not tear a message apart.
module bridge
import Base64, Dates, REPL
const package = Base.PkgId(Base.UUID("7073ff75-c697-5162-941a-fcdaad2a7d2a"), "IJulia")
const ijulia = get(Base.loaded_modules, package, nothing)
const codes = Dict("Raised" => -32000, "Cancelled" => -32003, "NotFound" => -32601, "Invalid" => -32602)

"""
    bridge.Error
A call of the host or of another plugin failed; `kind`, `message` and `data` are the protocol's.
"""
struct Error <: Exception
    kind::String
    message::String
    data::Dict{String,Any}
    received::Dict{String,Any}  # the whole error object
end
function Error(error::AbstractDict)
    data = something(get(error, "data", nothing), Dict{String,Any}())
    Error(get(data, "kind", "Raised"), error["message"], data, error)
end
Error(kind, message) = Error(Dict{String,Any}("code" => get(codes, kind, -32000), "message" => message,
                                              "data" => Dict{String,Any}("kind" => kind)))
Base.showerror(io::IO, error::Error) = print(io, "bridge.Error: ", error.message)

# What changes. served, asked: the last ids of the host's requests and of ours; task: the task of the open turn;
# notes: notifications not yet sent, and until when none goes alone; interrupted: by an interrupt that had to wait.
mutable struct Now
    task::Union{Task,Nothing}; carrier::String; inbox::Channel{String}; outbox::Channel{String}
    ended::Bool; interrupted::Bool; served::Int; asked::Int; notes::Vector{String}; quiet::Float64
end
const now = Now(nothing, "", Channel{String}(1), Channel{String}(1), true, false, 0, 0, String[], 0.0)
const tags, handlers, exports, farewells = [], Dict{Int,Any}(), Dict{String,Any}(), []  # of the plugin as loaded
const notes_lock = ReentrantLock()  # authors may log from threads

const dtypes = Dict("f64" => Float64, "f32" => Float32, "i64" => Int64, "i32" => Int32, "i16" => Int16, "i8" => Int8,
                    "u64" => UInt64, "u32" => UInt32, "u16" => UInt16, "u8" => UInt8, "bool" => Bool)
const Element = Union{values(dtypes)...}
const blobs = Ref(0)  # files of large values so far

# ---- JSON: a codec of our own, because a kernel without packages has none
put(io, x, depth) = throw(ArgumentError("a value of type $(typeof(x)) has no JSON form"))
put(io, ::Union{Nothing,Missing}, depth) = print(io, "null")
put(io, x::Union{Bool,Integer}, depth) = print(io, x)
put(io, x::Real, depth) = put(io, Float64(x), depth)
put(io, x::Float64, depth) = print(io, isfinite(x) ? x : "null")
put(io, x::Union{Symbol,AbstractChar,AbstractString,Dates.TimeType}, depth) = put(io, string(x), depth)
function put(io, x::AbstractVector{UInt8}, depth)
    sizeof(x) < 65536 ? print(io, "{\"\$bytes\":\"", Base64.base64encode(x), "\"}") : put_blob(io, x, ",\"bytes\":true")
end
put(io, x::AbstractMatrix{<:Element}, depth) = put_blob(io, x)
put(io, x::AbstractArray{<:Element,3}, depth) = put_blob(io, x)
function put(io, text::String, depth)
    isvalid(text) || throw(ArgumentError("a string is not UTF-8"))
    start, stop = 1, ncodeunits(text)
    write(io, '"')
    for i in 1:stop
        byte = codeunit(text, i)
        (byte < 0x20 || byte == 0x22 || byte == 0x5c) || continue
        GC.@preserve text unsafe_write(io, pointer(text, start), i - start)
        byte < 0x20 ? print(io, "\\u", string(byte, base = 16, pad = 4)) : print(io, '\\', Char(byte))
        start = i + 1
    end
    GC.@preserve text unsafe_write(io, pointer(text, start), stop + 1 - start)
    write(io, '"')
end
function put(io, items::Union{AbstractVector,Tuple,AbstractSet}, depth)
    items isa AbstractVector{<:Element} && sizeof(items) >= 65536 && return put_blob(io, items)
    put_all(item -> put(io, item, depth + 1), io, items, "[]", depth)
end
put(io, table::Union{AbstractDict,NamedTuple}, depth) = put_all(io, pairs(table), "{}", depth) do (key, item)
    put(io, string(key), depth)
    write(io, ':')
    put(io, item, depth + 1)
end
function put_all(put_one, io, items, brackets, depth)
    depth < 200 || throw(ArgumentError("a value is nested more than 200 deep, or holds itself"))
    write(io, brackets[1])
    for (i, item) in enumerate(items)
        i == 1 || write(io, ',')
        put_one(item)
    end
    write(io, brackets[2])
end
# Large values: files, or chunks of base64. In files the last index varies first, in Julia the first.
function put_blob(io, x, more = "")
    data = Array(ndims(x) > 1 ? permutedims(x, ndims(x):-1:1) : x)
    if now.carrier == "jupyter" || sizeof(data) < 65536
        bytes = collect(reinterpret(UInt8, vec(data)))
        content = [Base64.base64encode(bytes[at:min(at + 786431, end)]) for at in 1:786432:length(bytes)]
    else
        content = joinpath(ENV["KERNELBRIDGE_BLOBS"], string(blobs[] += 1))
        write(content, data)
    end
    print(io, "{\"\$blob\":")
    put(io, content, 0)
    print(io, ",\"dtype\":\"", only(name for (name, type) in dtypes if type == eltype(data)), "\",\"shape\":")
    put(io, collect(size(x)), 0)
    print(io, more, '}')
end
function get_blob(table)
    content, shape = table["\$blob"], Int[table["shape"]...]
    data = Vector{dtypes[table["dtype"]]}(undef, prod(shape))
    if content isa String
        read!(content, data)
    else
        read!(IOBuffer(reduce(vcat, Base64.base64decode.(content), init = UInt8[])), data)
    end
    length(shape) > 1 ? permutedims(reshape(data, reverse(shape)...), length(shape):-1:1) : data
end
encode(value) = String(take!((io = IOBuffer(); put(io, value, 0); io)))
mutable struct Reader text::String; at::Int end
decode(text) = parse_value(Reader(text, 1))
function parse_value(r::Reader)  # the host writes no space outside strings
    byte = codeunit(r.text, r.at)
    byte == UInt8('"') && return parse_string(r)
    byte in (UInt8('{'), UInt8('[')) && return byte == UInt8('{') ? parse_object(r) : parse_array(r)
    byte in (UInt8('t'), UInt8('n')) && (r.at += 4; return byte == UInt8('t') ? true : nothing)
    byte == UInt8('f') && (r.at += 5; return false)
    start = r.at
    while r.at <= ncodeunits(r.text) && codeunit(r.text, r.at) in codeunits("+-.0123456789eE")
        r.at += 1
    end
    number = SubString(r.text, start, r.at - 1)
    integer = tryparse(Int, number)
    integer === nothing ? parse(Float64, number) : integer
end
function each(step, r::Reader, close)  # of the items up to a bracket
    r.at += 1
    while codeunit(r.text, r.at) != UInt8(close)
        step()
        codeunit(r.text, r.at) == UInt8(',') && (r.at += 1)
    end
    r.at += 1
end
function parse_object(r::Reader, table = Dict{String,Any}())
    each(() -> (key = parse_string(r); r.at += 1; table[key] = parse_value(r)), r, '}')
    haskey(table, "\$blob") && haskey(table, "dtype") && return get_blob(table)
    base64 = length(table) == 1 ? get(table, "\$bytes", nothing) : nothing
    base64 isa String && ncodeunits(base64) % 4 == 0 || return table
    try Base64.base64decode(base64) catch; table end  # an author's own {"$bytes": ...} may hold anything
end
parse_array(r::Reader, items = Any[]) = (each(() -> push!(items, parse_value(r)), r, ']'); items)
function parse_string(r::Reader)
    text, start, out = r.text, r.at + 1, nothing
    unit(i) = parse(UInt32, SubString(text, i + 2, i + 5), base = 16)
    i = start
    while (byte = codeunit(text, i)) != UInt8('"')
        byte == UInt8('\\') || (i += 1; continue)
        out = something(out, IOBuffer())
        GC.@preserve text unsafe_write(out, pointer(text, start), i - start)
        escape = codeunit(text, i + 1)
        if escape == UInt8('u')
            code = unit(i)
            if 0xd800 <= code < 0xdc00 && codeunit(text, i + 6) == UInt8('\\') && codeunit(text, i + 7) == UInt8('u')
                code = 0x10000 + ((code - 0xd800) << 10) + (unit(i + 6) - 0xdc00)
                i += 6
            end
            print(out, Char(code))
            i += 6
        else
            at = findfirst(==(Char(escape)), "bfnrt")
            write(out, at === nothing ? escape : codeunit("\b\f\n\r\t", at))
            i += 2
        end
        start = i
    end
    r.at = i + 1
    out === nothing && return String(SubString(text, start, prevind(text, i)))
    GC.@preserve text unsafe_write(out, pointer(text, start), i - start)
    String(take!(out))
end

# ---- Messages
function shielded(wait)  # an interrupt that comes while the shim itself waits is kept for the author's code
    while true
        try return wait() catch error
            error isa InterruptException || rethrow()
            now.interrupted = true
        end
    end
end
function send(message...)
    messages = lock(() -> [splice!(now.notes, eachindex(now.notes)); message...], notes_lock)
    body = length(messages) == 1 ? messages[1] : string('[', join(messages, ','), ']')
    if now.carrier == "jupyter"
        inbox = now.inbox
        @async try put!(inbox, ijulia.readprompt(body)) catch; close(inbox) end
    elseif isopen(now.outbox)
        shielded(() -> put!(now.outbox, string(ncodeunits(body), '\n', body)))
        shielded(yield)  # to the task that writes, or a handler that computes would hold the message back
    end
    nothing
end
function take()
    try shielded(() -> take!(now.inbox)) catch error
        error isa InvalidStateException || rethrow()
        "{\"method\":\"end\"}"  # the host is gone
    end
end
function receive(asked)  # the host's next request, or its response to our request `asked`; nothing after the turn
    while !now.ended
        message = decode(take())
        method, id = get(message, "method", nothing), something(get(message, "id", 0), 0)
        now.ended = method == "end"
        if method === nothing ? id == asked : id > now.served  # else it is stale
            method === nothing || (now.served = id)
            return message
        end
        !now.ended && now.carrier == "jupyter" && send("[]")
    end
end
function request(method, params)  # and serve the host until it answers: whoever waits, serves
    if current_task() !== now.task
        throw(Error("Cancelled", "no turn is open here: calls belong inside a handler, in the handler's own task"))
    end
    params = encode(params)
    asked = now.asked += 1
    send("{\"jsonrpc\":\"2.0\",\"id\":$asked,\"method\":\"$method\",\"params\":$params}")
    while (message = receive(asked)) !== nothing && haskey(message, "method")
        serve(message)
    end
    now.interrupted && (now.interrupted = false; throw(InterruptException()))
    message === nothing && throw(Error("Cancelled", "the turn is over"))
    get(message, "error", nothing) === nothing ? get(message, "result", nothing) : throw(Error(message["error"]))
end
function notify(method, params)
    note = "{\"jsonrpc\":\"2.0\",\"method\":\"$method\",\"params\":$(encode(params))}"
    lock(() -> (length(now.notes) < 10000 && push!(now.notes, note)), notes_lock)
    if current_task() === now.task && time() >= now.quiet
        send()
        if now.carrier == "jupyter"  # a round trip each
            now.ended = occursin("\"method\":\"end\"", take())
            now.quiet = time() + 0.1
        end
    end
    nothing
end
@noinline function serve(message)
    method, params = message["method"], get(message, "params", nothing)
    response = try
        result = find(methods, method, "method")(params)
        method == "events" ? outcomes(result, length(params["events"])) : outcome(result)
    catch error
        "\"error\":" * encode(failure(error, stacktrace(catch_backtrace())))
    end
    shielded(() -> (flush(stdout); flush(stderr)))
    now.ended || send("{\"jsonrpc\":\"2.0\",\"id\":$(message["id"]),$response}")
end
function outcome(value)  # the end of a response
    try "\"result\":" * encode(value) catch error
        "\"error\":" * encode(Error("Invalid", sprint(showerror, error)).received)
    end
end
function outcomes(result, count)  # of the events of a batch
    results = result isa AbstractVector && length(result) == count ? result : fill(nothing, count)
    "\"result\":{\"outcomes\":[" * join(("{$(outcome(item))}" for item in results), ',') * "]}"
end
own(frame) = String(frame.file) == @__FILE__
function failure(error, frames)  # as an error of the protocol, the shim's own frames cut
    lines = String[]
    while error isa LoadError  # around what a cell raised while it was loaded
        pushfirst!(lines, "at $(basename(error.file)):$(error.line)")
        error = error.error
    end
    last = something(findfirst(frame -> own(frame) && frame.func in (:serve, :load), frames), length(frames) + 1) - 1
    of_julia(frame) = startswith(String(frame.file), "./")  # `invokelatest`, `eval`
    last = something(findlast(frame -> !own(frame) && !of_julia(frame), frames[1:last]), 0)
    frames = [clean(string(frame)) for frame in frames[1:last] if !own(frame)]
    error isa Error && isempty(frames) && isempty(lines) && return error.received  # the shim's own refusal
    name = error isa Error ? "bridge.Error" : string(nameof(typeof(error)))
    shown = string_of(error)
    text = startswith(shown, "$name: ") ? shown[ncodeunits(name)+3:end] : shown
    traceback = [split(shown, '\n'); [" [$i] $frame" for (i, frame) in enumerate(frames)]; lines]
    kind = error isa InterruptException ? "Cancelled" : "Raised"
    data = Dict{String,Any}("kind" => kind, "ename" => name, "evalue" => text, "traceback" => traceback)
    while error isa Union{TaskFailedException,CapturedException}
        error = error isa CapturedException ? error.ex : error.task.exception
    end
    error isa Error && (data["cause"] = error.received)
    Dict("code" => codes[kind], "message" => isempty(text) ? name : "$name: $text", "data" => data)
end
clean(text) = isvalid(text) ? text : map(c -> isvalid(c) ? c : '\ufffd', text)
function string_of(error)  # by the author's own `showerror`, which may be newer than this turn, and wrong
    try clean(Base.invokelatest(sprint, showerror, error)) catch; string(nameof(typeof(error))) end
end

# ---- The host's requests
function initialize(params)
    merge!(empty!(config), something(get(params, "config", nothing), Dict{String,Any}()))
    merge!(empty!(plugin), something(get(params, "plugin", nothing), Dict{String,Any}()))
    Dict("bridge" => "1", "language" => "julia", "interpreter" => "Julia $VERSION", "features" => ["blob", "bytes"])
end
function load(params)  # into a new module, and with it everything that an earlier load registered is gone
    empty!(tags), empty!(handlers), empty!(exports), empty!(farewells)
    name = "plugin_" * replace(get(plugin, "name", ""), r"\W" => "_")
    author = Core.eval(Module(:plugins), Meta.parse("module $name end"))  # has `include` and `eval`, unlike `Module()`
    Core.eval(author, :(const bridge = $(@__MODULE__)))
    path = something(get(params, "path", nothing), "")
    task_local_storage(:SOURCE_PATH, isempty(path) ? nothing : path) do  # for the author's `include`
        for (name, source) in ((cell["name"], cell["source"]) for cell in params["cells"])
            if endswith(name, "]")  # a notebook's cell has the scope rules of a prompt
                Core.eval(author, REPL.softscope(Meta.parseall(source, filename = name)))
            else
                include_string(author, source, isempty(path) ? name : path)  # the path, for the author's `@__DIR__`
            end
        end
    end
    Dict("handlers" => tags, "async" => false)
end
find(table, key, what = "handler") = get(() -> throw(Error("NotFound", "no $what `$key`")), table, key)
# `invokelatest`, because handlers may be newer than the turn that runs them.
handle(params) = Base.invokelatest(find(handlers, pop!(params, "handler")), params)
const methods = Dict{String,Function}(
    "initialize" => initialize, "load" => load, "event" => handle, "filter" => handle,
    "events" => params -> Base.invokelatest(find(handlers, params["handler"]), params["events"]),
    "call" => params -> Base.invokelatest(find(exports, params["name"], "function"), params["args"]...),
    "shutdown" => params -> foreach(Base.invokelatest, farewells))

# ---- What the author sees
const config, plugin = Dict{String,Any}(), Dict{String,Any}()
function register(f, name; more...)
    push!(tags, (; id = length(tags) + 1, name = name, more...))
    handlers[length(tags)] = f
end
title(f, topic) = startswith(string(nameof(f)), '#') ? topic : string(nameof(f))  # a `do` block has no name
function docstring(f)
    binding = Docs.Binding(parentmodule(f), nameof(f))
    found = parentmodule(f) in (Base, Core) ? nothing : get(Docs.meta(parentmodule(f)), binding, nothing)
    found === nothing ? "" : strip(join((join(part.text) for part in values(found.docs)), '\n'))
end
# The function comes first, for `do`; the other order is understood, too.
const Name = AbstractString
on(f, topic::Name; batch = 0) = register(f, title(f, topic); kind = "on", topic = topic, batch = batch)
on(topic::Name, f; options...) = on(f, topic; options...)
filter(f, topic::Name, priority = 0) = register(f, title(f, topic); kind = "filter", topic = topic, priority = priority)
filter(topic::Name, f, priority = 0) = filter(f, topic, priority)
function offer(f, name::Name; doc = f isa Function ? docstring(f) : "")
    exports[name] = f
    register(f, name; kind = "export", doc = doc)
end
offer(name::Name, f; options...) = offer(f, name; options...)
const var"export" = offer  # a keyword, but not after a dot
on_shutdown(f) = (push!(farewells, f); f)
call(name::Name, args...) = request("call", (; name = name, args = args))
emit(topic::Name, data = nothing; key = nothing) = emit(topic, data, key)
emit(topic::Name, data, key) = request("emit", (; topic = topic, data = data, key = key))
progress(done, total = nothing, message = nothing) =
    notify("progress", (; done = done, total = total, message = message))
record(level) = function (message, fields = NamedTuple(); more...)
    both = Dict{String,Any}(string(key) => value for part in (fields, more) for (key, value) in pairs(part))
    notify("log", (; level = level, message = string(message), fields = both))
end
const log = (debug = record("debug"), info = record("info"), warn = record("warn"), error = record("error"))
function update(f, key::Name, default = nothing; once = nothing)  # once: for this event, however often it is delivered
    while true  # until nobody else was quicker
        stored = call("state.read", key)
        value = f(stored["version"] == 0 ? default : stored["value"])
        swap = once === nothing ? call("state.swap", key, stored["version"], value) :
               call("state.once", once.id, key, stored["version"], value)
        swap["swapped"] && return value
        get(swap, "done", false) && return stored["value"]
    end
end
update(key::Name, f, default = nothing; once = nothing) = update(f, key, default; once = once)
const state = (get = (key, default = nothing) -> something(call("state.get", key), Some(default)), update = update,
               set = (key, value) -> call("state.set", key, value), delete = key -> call("state.delete", key),
               list = (prefix = "") -> call("state.list", prefix))

# A plugin has no keyboard, but the host may have an answer; IJulia would take the carrier's own channel for it.
if ijulia !== nothing
    ask(prompt) = now.task === nothing ? ijulia.readprompt(prompt) : call("host.input", prompt)
    Base.readline(io::ijulia.IJuliaStdio; keep::Bool = false) =
        get(io, :jupyter_stream, "unknown") == "stdin" ? ask("stdin> ") : readline(io.io; keep = keep)
    Base.prompt(::ijulia.IJuliaStdio, ::ijulia.IJuliaStdio, message::AbstractString; default::AbstractString = "") =
        (answer = chomp(ask(message * ": ")); isempty(answer) ? default : answer)
end
function _turn(carrier)
    up = down = writer = nothing
    now.task, now.carrier, now.ended, now.quiet = current_task(), carrier, false, 0.0
    now.inbox, now.outbox = inbox, outbox = Channel{String}(64), Channel{String}(64)
    try
        if carrier == "pipe"  # as libuv's pipes, so that tasks of the author run on while the shim waits
            folder = ENV["KERNELBRIDGE_DIR"]
            up = open(Base.Filesystem.open("$folder/to-host", Base.Filesystem.JL_O_WRONLY).handle)
            down = open(Base.Filesystem.open("$folder/to-plugin", Base.Filesystem.JL_O_RDONLY).handle)
            writer = @async try foreach(frame -> write(up, frame), outbox) catch; close(outbox), close(inbox) end
            @async try
                while !eof(down)
                    put!(inbox, String(read(down, parse(Int, readline(down)))))
                end
            catch
            finally
                close(inbox)
            end
        end
        # Before what the author's tasks logged since the last turn; not by `notify`, which waits for a `continue`.
        lock(() -> pushfirst!(now.notes, "{\"jsonrpc\":\"2.0\",\"method\":\"ready\"}"), notes_lock)
        send()
        while (message = receive(0)) !== nothing
            now.interrupted = false
            serve(message)
        end
    finally
        now.task, now.ended = nothing, true
        close(outbox)
        writer === nothing || shielded(() -> wait(writer))
        up === nothing || close(up)
        down === nothing || close(down)
    end
    nothing
end

end # module bridge
