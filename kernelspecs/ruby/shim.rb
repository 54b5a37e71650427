# kernelbridge's shim for Ruby: runs inside a stock IRuby kernel and serves a plugin's handlers (docs/protocol.md).
# It leaves one constant, Kernelbridge, and one method, `bridge`, which is everywhere, as `puts` is. Author code runs in
# a module of its own, new with every load, so several plugins can share a kernel. Interrupts are masked in the shim
# and unmasked around author code, so that neither SIGINT nor the author's own `Timeout.timeout` tears a message apart.
# A turn is served by the thread of its cell, or, if it stands, by one of its own, since Ruby has no event loop; author
# code runs in the thread that serves.
%w[json monitor securerandom set time].each { |name| require name }

module Kernelbridge
  CODES = { "Raised" => -32000, "Cancelled" => -32003, "NotFound" => -32601, "Invalid" => -32602 }.freeze
  Bytes = Class.new(String)    # what arrived as {"$bytes": ...}, or is to leave as that though it is ASCII
  Outcomes = Class.new(String) # JSON already

  # A call of the host or of another plugin failed. `error` is the error object as it was received, if it was.
  class Error < StandardError
    attr_reader :kind, :data, :error
    def initialize(kind, message, error = nil)
      super message
      @kind, @error, @data = kind, error, error && error["data"] || { "kind" => kind }
    end
  end

  class Event < Hash # whose fields are methods too
    %w[id topic time attempt chain data].each { |field| define_method(field) { self[field] } }
    def key(*value) = value.empty? ? self["key"] : super
  end

  # Of IRuby's session: its sockets, and what it signs messages with, are for one thread at a time; a message of several
  # parts must not be torn by an interrupt; and what a standing turn prints belongs to the cell that opened the turn,
  # whichever came since.
  module Shared
    LOCK = Monitor.new
    def send(*message) = Kernelbridge.masked { LOCK.synchronize { super(*message) } }
    def cell = JSON.generate(@last_recvd_msg[:header])
    private
    def sign(parts) = LOCK.synchronize { super(parts) }
    def serialize(*message)
      *rest, _, header, parent, metadata, content = super
      parts = [header, Kernelbridge.opened_by || parent, metadata, content]
      [*rest, sign(parts), *parts]
    end
  end
  module Forks # a child of author code's has no host, and must not hold the pipe of ours open
    def _fork = super.tap { |child| Kernelbridge.leave if child == 0 }
  end

  # ---- Carriers. Ruby opens files close-on-exec and ignores SIGPIPE.
  class Pipe # the FIFO pair in the kernel's private folder, open for one turn
    def initialize(folder = ENV.fetch("KERNELBRIDGE_DIR"))
      @up, @down = File.open("#{folder}/to-host", "wb"), File.open("#{folder}/to-plugin", "rb")
      @up.sync = true
    end
    def send(body) = @up.write("#{body.bytesize}\n", body)
    def receive = (size = @down.gets) && @down.read(size.to_i)&.force_encoding(Encoding::UTF_8)
    def close = [@up, @down].each(&:close)
  end
  class Stdin # messages are prompts of input requests; the value of a reply is the host's next message
    def initialize # IRuby's Session#send has no identity for stdin, so this reaches into the session
      @session = IRuby::Kernel.instance.session
      @sockets, @last, @id = %i[@sockets @last_recvd_msg @session_id].map { |it| @session.instance_variable_get(it) }
    end
    def send(body)
      header = { msg_type: "input_request", msg_id: SecureRandom.uuid, date: Time.now.utc.iso8601, username: "kernel",
                 session: @id, version: "5.3" }
      message = @session.__send__(:serialize, @last[:idents], header, {}, { prompt: body, password: false })
      @session.adapter.send(@sockets[:stdin], message)
    end
    def receive = @session.recv_input
    def close = nil
  end
  # A plugin: in space 0, or one of several that share the kernel. It is also the group of the threads that work for it;
  # threads inherit theirs, so it tells whose code asks for `bridge` where the plugin's module does not.
  class Space < ThreadGroup
    attr_reader :id, :bridge, :log, :scope, :tags, :exports, :farewells, :sources
    attr_accessor :name, :plugin, :config, :folder, :home
    def initialize(id)
      super()
      @id, @bridge, @log = id, Bridge.new(self), Log.new(self)
      clear
    end
    def clear # of what a load brought
      @tags, @exports, @farewells, @sources = [], {}, [], {}
      @scope, bridge = Module.new { extend self }, @bridge # by itself: a function can be called where it is defined
      @scope.define_singleton_method(:bridge) { bridge }
    end
    def constant = shared? ? :"Plugin#{id}" : :Plugin
    def shared? = id > 0
  end
  class Keyboard # stands in for $stdin: a plugin has no keyboard, but the host may have an answer
    def gets(*, chomp: false) = (line = bridge.call("host.input", "")) && (chomp ? line : "#{line}\n")
    def readline(...) = gets(...) || raise(EOFError, "end of file reached")
    def read(*) = gets
    def tty? = false
  end

  # The last ids of the host's requests and of ours; until when no notification goes alone; those not yet sent.
  # depth: how many of the host's requests are served, one in the middle of the other; is_busy: a cell runs.
  # handlers: space and function by id, which no two plugins share; space: the plugin that is served, or was last.
  @served, @asked, @quiet, @notes, @ended, @depth, @spaces, @handlers, @last_handler = 0, 0, 0, [], true, 0, {}, {}, 0
  class << self
    def turn(via)
      @cell = nil
      masked { attend((via == "pipe" ? Pipe : Stdin).new) }
      nil
    end
    def stand # a turn that goes on after its cell; the thread is masked as we are
      @cell = @session&.cell
      masked { Pipe.new.then { |pipe| Thread.new { attend(pipe) } } }
      nil
    end
    def opened_by = (@cell if Thread.current == @thread)
    def masked(&block) = Thread.handle_interrupt(Exception => :never, &block)
    def leave # the turn, without a word
      carrier, @carrier, @ended = @carrier, nil, true
      carrier&.close
    end
    def request(method, params) # and serve the host until it answers: whoever waits, serves
      raise Error.new("Cancelled", "no turn is open here: calls belong inside a handler, in its thread") unless in_turn?
      params, space, folder = encode(params), @space, nil
      masked do
        id, message = @asked += 1, nil
        transmit(%({"jsonrpc":"2.0","id":#{id},"method":"#{method}","params":#{params}}))
        while (message = receive(id))&.key?("method")
          folder ||= working_folder if space.shared?
          serve(message)
        end
        move(space, folder) if folder # another plugin may have been served
        raise Error.new("Cancelled", "the turn is over") unless message
        error = message["error"] or return message["result"]
        raise Error.new(error.dig("data", "kind") || "Raised", error["message"], error)
      end
    end
    def notify(method, params, space)
      params[:space] = space.id if space.shared?
      @notes << %({"jsonrpc":"2.0","method":"#{method}","params":#{encode(params)}})
      @notes.shift if @notes.size > 10_000
      masked { notify_now } if in_turn? && clock >= @quiet
    end
    def here = Thread.current.group.then { |group| group.is_a?(Space) ? group : @space } # whose code runs
    def register(space, kind, fn, **tags)
      raise ArgumentError, "bridge.#{kind} needs a block" unless fn
      name = fn.is_a?(Method) ? fn.name : fn.source_location.join(":")
      tags = { id: @last_handler += 1, kind: kind, name: name, **tags }
      tags[:doc] = doc_above(space, *fn.source_location) if kind == "export"
      space.exports[tags[:name]] = fn if kind == "export"
      space.tags << tags
      @handlers[tags[:id]] = [space, fn]
    end
    # Ruby's own error messages and much else are BINARY, so only what is not ASCII counts as bytes.
    def text(string)
      string = string.dup.force_encoding(Encoding::UTF_8) if string.encoding == Encoding::BINARY
      string.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
    end
    private
    def attend(carrier)
      @space.add(Thread.current) if @space.shared?
      @carrier, @thread, @ended, @depth, keyboard, $stdin = carrier, Thread.current, false, 0, $stdin, Keyboard.new
      interrupt = trap("INT") { interrupted }
      transmit('{"jsonrpc":"2.0","method":"ready"}')
      while (message = receive(0))
        forget_interrupts # those that came too late for the handler they were meant for
        serve(message)
      end
    ensure
      $stdin = keyboard
      trap("INT", interrupt || "DEFAULT")
      leave # now, because a host that sees the pipe closed may open another turn
      forget_interrupts
    end
    def interrupted # told in the main thread, which runs signal handlers, or a cell of somebody's, or waits for one
      thread = @depth > 0 ? @thread : @is_busy && Thread.main
      thread&.raise(Interrupt, "interrupted by the host")
    end

    # ---- Values
    def encode(value) = JSON.generate(plain(value, 0), max_nesting: 0)
    def bytes?(string) = string.is_a?(Bytes) || (string.encoding == Encoding::BINARY && !string.ascii_only?)
    def plain(value, depth) # made of what JSON has
      raise Error.new("Invalid", "a value is nested more than 120 deep, or holds itself") if depth > 120
      case value
      when nil, true, false, Integer then value
      when String then bytes?(value) ? { "$bytes" => [value].pack("m0") } : text(value)
      when Float then value.finite? ? value : nil
      when Symbol then text(value.name)
      when Hash then value.to_h { |name, item| [text(name.to_s), plain(item, depth + 1)] }
      when Array, Set, Range then value.to_a.map { |item| plain(item, depth + 1) }
      when Numeric then plain(value.to_f, depth)
      else
        form = %i[iso8601 to_ary to_h].find { |it| value.respond_to?(it) }
        plain(value.public_send(form || raise(TypeError, "a #{value.class} has no JSON form")), depth + 1)
      end
    rescue RangeError, TypeError => problem # also an endless range, a complex number
      raise Error.new("Invalid", problem.message)
    end
    def decode(body) = JSON.parse(body, max_nesting: 0).then { |it| body.include?('"$bytes"') ? revive(it) : it }
    def revive(value)
      return value.map { |item| revive(item) } if value.is_a?(Array)
      return value unless value.is_a?(Hash)
      bytes = value["$bytes"] if value.size == 1
      bytes.is_a?(String) ? Bytes.new(bytes.unpack1("m0")) : value.transform_values { |item| revive(item) }
    rescue ArgumentError # an author's own {"$bytes": ...}
      value
    end

    # ---- Messages
    def unmasked(&block) = Thread.handle_interrupt(Exception => :immediate, &block)
    def clock = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    def in_turn? = @carrier && Thread.current == @thread
    def forget_interrupts
      unmasked { nil }
    rescue Interrupt
      retry
    end
    def transmit(*message)
      messages = @notes.shift(@notes.size) + message
      @carrier.send(messages.size == 1 ? messages[0] : "[#{messages.join(",")}]")
    rescue Errno::EPIPE # the host is gone
      @ended = true
    end
    def receive(asked) # the host's next request, or its response to ours; nil when the turn is over
      until @ended
        message = decode(@carrier.receive || '{"method":"end"}')
        method, id = message.values_at("method", "id")
        @ended = method == "end"
        next unless id && (method ? id > @served : id == asked) # else it is stale
        @served = id if method
        return message
      end
    end
    def notify_now # a round trip on `jupyter`
      transmit
      return if @carrier.is_a?(Pipe)
      nil until decode(@carrier.receive)["method"] == "continue"
      @quiet = clock + 0.1
      nil
    end
    def serve(message)
      id, method, params = message.values_at("id", "method", "params")
      @depth += 1
      outcome = method == "series" ? series(params) : outcome_of { unmasked { answer(method, params) } }
      [$stdout, $stderr].each(&:flush)
      @depth -= 1
      transmit(%({"jsonrpc":"2.0","id":#{id},#{outcome}})) unless @ended
    end
    def outcome_of # the end of a response
      result = yield
      %("result":#{result.is_a?(Outcomes) ? result : encode(result)})
    rescue Exception => error # also interrupts, `exit`, and no stack left
      %("error":#{encode(failure(error, caller(0).size))})
    end
    def series(params) # events one after the other, until one fails or time is up
      began, outcomes = clock, []
      params["events"].each do |event|
        start = clock
        outcome = outcome_of { unmasked { answer("event", { **event, "chain" => params["chain"] }) } }
        outcomes << %({#{outcome},"ms":#{((clock - start) * 1000).round(3)}})
        break if @ended || outcome.start_with?('"error"') || (clock - began) * 1000 > params["within_ms"]
      end
      %("result":{"outcomes":[#{outcomes.join(",")}]})
    end
    def failure(error, outside) # as an error of the protocol; the outermost frames, `outside`, are not the author's
      refusal = error.is_a?(Error) && !error.error && frames(error, outside).empty? # the shim's own
      return { code: CODES[error.kind], message: error.message, data: error.data } if refusal
      kind, ename, evalue = error.is_a?(Interrupt) ? "Cancelled" : "Raised", name_of(error), text(error.message)
      chain = Enumerator.produce(error, &:cause).lazy.take_while(&:itself).first(10)
      traceback = chain.flat_map { |it| describe(it, frames(it, outside)) }
      cause = chain.find { |it| it.is_a?(Error) && it.error }&.error
      data = { kind:, ename:, evalue:, traceback:, cause: }.compact
      { code: CODES[kind], message: "#{ename}: #{evalue}", data: }
    end
    def frames(error, outside)
      (error.backtrace || []).reverse.drop(outside).reverse.reject { |line| line.start_with?("#{__FILE__}:") }
    end
    def describe(error, frames) # as Ruby prints it
      first, *rest = frames
      rest[30...-30] = "... #{rest.size - 60} more ..." if rest.size > 60 # endless recursion
      lines = "#{"#{first}: " if first}#{text(error.message).chomp} (#{name_of(error)})".lines(chomp: true)
      lines + rest.map { |line| "\tfrom #{line}" }
    end
    def name_of(error) = error.is_a?(Error) ? "bridge::Error" : error.class.to_s.sub(/\A#{self}::Plugin\d*::/, "")

    # ---- Plugins
    # Each has its folder and finds what lies beside its entry file, whatever others call theirs.
    def move(space, folder = nil)
      return if space == @space && (!folder || folder == working_folder)
      masked do # not by half
        folder ||= space.folder
        quietly { Dir.chdir(folder) } if folder
        $LOAD_PATH.delete(@space.home)
        $LOAD_PATH.unshift(space.home) if space.home
        space.add(Thread.current) if space.shared?
        @space = space
      end
    end
    def quietly # who waits inside of the block of a `Dir.chdir` finds its folder again, so Ruby need not warn
      was, $VERBOSE = $VERBOSE, nil
      yield
    ensure
      $VERBOSE = was
    end
    def working_folder
      Dir.pwd
    rescue SystemCallError # it was removed
      nil
    end
    def space_of(params) = find(@spaces, params.fetch("space", 0), "space").tap { |space| move(space) }
    def handler(id)
      space, fn = find(@handlers, id)
      move(space)
      fn
    end
    def forget(space) # what a load brought
      space.tags.each { |tags| @handlers.delete(tags[:id]) }
      remove_const(space.constant) if const_defined?(space.constant, false)
      space.clear
    end

    # ---- The host's requests
    def answer(method, params)
      case method
      when "event", "filter" then handler(params.delete("handler")).call(Event[params])
      when "events" then events(params)
      when "call" then find(space_of(params).exports, params["name"], "function").call(*params["args"])
      when "initialize"
        id = params.fetch("space", 0)
        @spaces[id] = Space.new(id) if id > 0
        space = @spaces[id]
        space.plugin, space.config, space.folder = params.values_at("plugin", "config", "folder")
        space.name = space.plugin&.dig("name")
        move(space)
        interpreter = ["Ruby #{RUBY_VERSION}", *("IRuby #{IRuby::VERSION}" if defined?(IRuby))].join(", ")
        { bridge: "1", language: "ruby", interpreter:, features: %w[bytes series shared] }
      when "load" then load_plugin(space_of(params), params)
      when "shutdown" then shutdown(@spaces[params.fetch("space", 0)])
      else raise Error.new("NotFound", "no method `#{method}`")
      end
    end
    def find(table, key, what = "handler") = table[key] || raise(Error.new("NotFound", "no #{what} `#{key}`"))
    def events(params)
      list = params["events"].map { |event| Event[event] }
      results = handler(params["handler"]).call(list)
      results = [nil] * list.size unless results.is_a?(Array) && results.size == list.size
      outcomes = results.map { |it| "{#{outcome_of { it.is_a?(Exception) ? raise(it) : it }}}" }
      Outcomes.new(%({"outcomes":[#{outcomes.join(",")}]}))
    end
    def load_plugin(space, params)
      forget(space)
      const_set(space.constant, space.scope)
      found_beside(space, File.dirname(params["path"])) if params["path"]
      # In a traceback of a shared kernel, whose file is it?
      cells = params["cells"].map { |cell| [[*(space.name if space.shared?), cell["name"]].join("/"), cell["source"]] }
      space.sources.update(cells.to_h.transform_values(&:lines))
      @scope = space.scope
      scope = main
      cells.each { |name, source| scope.eval(source, name, 1) }
      { handlers: space.tags, async: false }
    end
    def found_beside(space, home) # files beside the entry file, which are loaded anew with it
      space.home = home
      $LOAD_PATH.unshift(home) unless $LOAD_PATH.include?(home)
      $LOADED_FEATURES.reject! { |feature| feature.start_with?("#{home}/") }
      space.scope.define_singleton_method(:__dir__) { home }
      space.scope.define_singleton_method(:require_relative) { |path| require(File.expand_path(path, home)) }
    end
    def shutdown(space)
      return unless space
      begin
        move(space)
        space.farewells.each(&:call)
      ensure # the kernel goes on without it
        @spaces.delete(space.id) && forget(space) if space.shared?
      end
      nil
    end
    def doc_above(space, file, line) # the comment just above a function
      above = (space.sources[file] || []).first(line - 1).reverse.take_while { |it| it.match?(/\A\s*#/) }
      above.reverse.map { |it| it.sub(/\A\s*#+ ?/, "").chomp }.join("\n")
    end
  end
  Process.singleton_class.prepend(Forks)
  if defined?(IRuby::Kernel)
    @session = IRuby::Kernel.instance.session.extend(Shared)
    { pre_execute: true, post_execute: false }.each do |event, is_busy|
      IRuby::Kernel.instance.events.register(event) { @is_busy = is_busy }
    end
  end
  # ---- What the author sees
  module State # values shared by the application and all its plugins, by key
    module_function
    def get(key, default = nil) = (value = bridge.call("state.get", key)).nil? ? default : value
    def set(key, value) = bridge.call("state.set", key, value)
    def delete(key) = bridge.call("state.delete", key)
    def list(prefix = "") = bridge.call("state.list", prefix)
    def update(key, default = nil, once: nil) # once: for this event, however often it is delivered
      loop do # until nobody else was quicker
        value, version = bridge.call("state.read", key).values_at("value", "version")
        new = yield(value.nil? ? default : value)
        name, event = once ? ["state.once", [once.id]] : ["state.swap", []]
        swapped, done = bridge.call(name, *event, key, version, new).values_at("swapped", "done")
        return swapped ? new : value if swapped || done
      end
    end
  end
  class Log
    def initialize(space) = @space = space
    %w[debug info warn error].each do |level|
      define_method(level) do |message, fields = {}, **more|
        note = { level:, message: Kernelbridge.text(message.to_s), fields: { **fields, **more } }
        Kernelbridge.notify("log", note, @space)
      end
    end
  end
  module Names # as in `rescue bridge::Error`
    Error, Event, Bytes = Kernelbridge::Error, Kernelbridge::Event, Kernelbridge::Bytes
  end
  # All that a plugin has of its host; a function is a block, a lambda or a method (`export def f(x) ...`).
  class Bridge < Module
    HOST = Kernelbridge
    def initialize(space)
      super()
      @space = space
      include(Names)
    end
    def on(topic, fn = nil, batch: 0, &block) = HOST.register(@space, "on", fn || block, topic: topic, batch: batch)
    def filter(topic, fn = nil, priority: 0, &block) = HOST.register(@space, "filter", fn || block, topic:, priority:)
    def export(name, fn = nil, &block)
      HOST.register(@space, "export", fn || block || @space.scope.method(name), name: name.to_s)
    end
    def on_shutdown(fn = nil, &block) = @space.farewells << (fn || block)
    def call(name, *args) = HOST.request("call", { name: name, args: args })
    def emit(topic, data = nil, key: nil) = HOST.request("emit", { topic: topic, data: data, key: key })
    def progress(done, total = nil, message = nil) = HOST.notify("progress", { done:, total:, message: }, @space)
    def state = State
    def log = @space.log
    def config = @space.config
    def plugin = @space.plugin
  end
  @space = @spaces[0] = Space.new(0)
end

module Kernel
  module_function
  def bridge = Kernelbridge.here.bridge
  # Ruby's own read the files named in ARGV first, which in IRuby are the kernel's arguments.
  def gets(...) = $stdin.gets(...)
  def readline(...) = $stdin.readline(...)
end

# A string, else constants would land here; no local variables, because the author would see them; and out here, because
# the author's constants are not to be looked for among the shim's.
def Kernelbridge.main = @scope.module_eval("binding", __FILE__, __LINE__)
