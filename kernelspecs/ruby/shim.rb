# kernelbridge's shim for Ruby: runs inside a stock IRuby kernel and serves a plugin's handlers (docs/protocol.md).
# It leaves one constant, Kernelbridge, and one method, `bridge`, which is everywhere, as `puts` is. Author code runs in
# a module of its own, new with every load. Interrupts are masked in the shim and unmasked around author code, so that
# neither SIGINT nor the author's own `Timeout.timeout` tears a message apart.
require "json"
require "securerandom"
require "set"
require "time"

module Kernelbridge
  CODES = { "Raised" => -32000, "Cancelled" => -32003, "NotFound" => -32601, "Invalid" => -32602 }.freeze

  # A call of the host or of another plugin failed. `error` is the error object as it was received, if it was.
  class Error < StandardError
    attr_reader :kind, :data, :error

    def initialize(kind, message, error = nil)
      super(message)
      @kind, @error, @data = kind, error, error && error["data"] || { "kind" => kind }
    end

    def to_wire = { code: CODES.fetch(kind), message: message, data: data }
  end

  # An event is a Hash whose fields are methods too.
  class Event < Hash
    %w[id topic time attempt chain data].each { |field| define_method(field) { self[field] } }
    def key(*value) = value.empty? ? self["key"] : super
  end

  # ---- Values
  module Values
    module_function

    def encode(value) = JSON.generate(plain(value, 0), max_nesting: 0)

    def plain(value, depth) # made of what JSON has
      raise Error.new("Invalid", "a value is nested more than 120 deep, or holds itself") if depth > 120
      case value
      when nil, true, false, Integer then value
      when String then value.encoding == Encoding::BINARY ? { "$bytes" => [value].pack("m0") } : text(value)
      when Float then value.finite? ? value : nil
      when Symbol then text(value.name)
      when Hash then value.to_h { |name, item| [text(name.to_s), plain(item, depth + 1)] }
      when Array then value.map { |item| plain(item, depth + 1) }
      when Set, Range then plain(value.to_a, depth)
      when Numeric then plain(value.to_f, depth)
      else
        form = %i[iso8601 to_ary to_h].find { |it| value.respond_to?(it) }
        raise Error.new("Invalid", "a value of class #{value.class} has no JSON form") unless form
        plain(value.public_send(form), depth + 1)
      end
    rescue RangeError => problem # an endless range, a complex number
      raise Error.new("Invalid", problem.message)
    end

    def text(string)
      string = string.encode(Encoding::UTF_8, invalid: :replace, undef: :replace) unless string.encoding == Encoding::UTF_8
      string.valid_encoding? ? string : string.scrub
    end

    def decode(body)
      value = JSON.parse(body, max_nesting: 0)
      body.include?('"$bytes"') ? revive(value) : value
    end

    def revive(value)
      case value
      when Array then value.map { |item| revive(item) }
      when Hash
        bytes = value["$bytes"] if value.size == 1
        bytes.is_a?(String) ? bytes.unpack1("m0") : value.transform_values { |item| revive(item) }
      else value
      end
    rescue ArgumentError # an author's own {"$bytes": ...}
      value
    end
  end

  # ---- Carriers. Ruby opens files close-on-exec and ignores SIGPIPE.
  class Pipe # the FIFO pair in the kernel's private folder, open for one turn
    def initialize
      folder = ENV.fetch("KERNELBRIDGE_DIR")
      @up, @down = File.open("#{folder}/to-host", "wb"), File.open("#{folder}/to-plugin", "rb")
      @up.sync = true
    end

    def send(body) = @up.write("#{body.bytesize}\n", body)
    def receive = (size = @down.gets) && @down.read(size.to_i)&.force_encoding(Encoding::UTF_8)
    def close = [@up, @down].each(&:close)
    def slow? = false
  end

  class Stdin # messages are prompts of input requests; the value of a reply is the host's next message
    # IRuby's `gets` is broken, and its Session#send has no identity for stdin, so this reaches into the session.
    def initialize
      @session = IRuby::Kernel.instance.session
      @socket = @session.instance_variable_get(:@sockets)[:stdin]
      @idents = @session.instance_variable_get(:@last_recvd_msg)[:idents]
    end

    def send(body)
      header = { msg_type: "input_request", msg_id: SecureRandom.uuid, date: Time.now.utc.iso8601, username: "kernel",
                 session: @session.instance_variable_get(:@session_id), version: "5.3" }
      content = { prompt: body, password: false }
      @session.adapter.send(@socket, @session.__send__(:serialize, @idents, header, {}, content))
    end

    def receive = @session.recv_input
    def close = nil
    def slow? = true
  end

  class Keyboard # stands in for $stdin: a plugin has no keyboard, but the host may have an answer
    def gets(*, chomp: false) = (line = bridge.call("host.input", "")) && (chomp ? line : "#{line}\n")
    def getpass(prompt = "") = bridge.call("host.input", prompt.to_s)
    def readline(...) = gets(...) || raise(EOFError, "end of file reached")
    def read(*) = gets
    def readlines(*) = [gets].compact
    def each_line = (line = gets) && yield(line)
    def fileno = 0
    def tty? = false
    alias isatty tty?
  end

  # ---- Messages
  @served = @asked = @quiet = 0 # the last ids of the host's requests and of ours; until when no notification goes alone
  @ended, @notes = true, []     # notifications not yet sent
  @config = @plugin = {}

  class << self
    attr_reader :config, :plugin

    def turn(via)
      masked do
        previous, keyboard, @thread, @ended = $stdin, Keyboard.new, Thread.current, false
        interrupt = trap("INT") { @thread.raise(Interrupt, "interrupted by the host") }
        @carrier, $stdin = (via == "pipe" ? Pipe : Stdin).new, keyboard
        transmit('{"jsonrpc":"2.0","method":"ready"}')
        while (message = receive(0))
          forget_interrupts # those that came too late for the handler they were meant for
          serve(message)
        end
      ensure
        @carrier&.close
        @carrier, @ended, $stdin = nil, true, previous
        trap("INT", interrupt || "DEFAULT")
        forget_interrupts
      end
      nil
    end

    def request(method, params) # and serve the host until it answers: whoever waits, serves
      raise Error.new("Cancelled", "no turn is open here: calls belong inside a handler, in its thread") unless in_turn?
      params = Values.encode(params)
      masked do
        id = @asked += 1
        transmit(%({"jsonrpc":"2.0","id":#{id},"method":"#{method}","params":#{params}}))
        serve(message) while (message = receive(id)) && message.key?("method")
        raise Error.new("Cancelled", "the turn is over") unless message
        error = message["error"] or return message["result"]
        raise Error.new(error.dig("data", "kind") || "Raised", error["message"], error)
      end
    end

    def notify(method, params)
      @notes << %({"jsonrpc":"2.0","method":"#{method}","params":#{Values.encode(params)}})
      @notes.shift if @notes.size > 10_000
      masked { notify_now } if in_turn? && clock >= @quiet
    end

    # ---- What the author's `bridge` does
    def register(kind, fn, **tags)
      raise ArgumentError, "bridge.#{kind} needs a block" unless fn
      place = fn.source_location&.join(":")
      tags = { id: @tags.size + 1, kind: kind, name: fn.is_a?(Method) ? fn.name : place, **tags }
      tags[:doc] = doc_above(*fn.source_location) if kind == "export"
      @handlers[tags[:id]] = fn
      @exports[tags[:name].to_s] = fn if kind == "export"
      @tags << tags
      fn
    end

    def farewell(fn) = @farewells << fn
    def author_method(name) = Plugin.method(name)

    private

    def masked(&block) = Thread.handle_interrupt(Object => :never, &block)
    def unmasked(&block) = Thread.handle_interrupt(Object => :immediate, &block)
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
        body = @carrier.receive
        message = body ? Values.decode(body) : { "method" => "end" }
        method, id = message.values_at("method", "id")
        @ended = method == "end"
        next unless id && (method ? id > @served : id == asked) # else it is stale
        @served = id if method
        return message
      end
    end

    def notify_now # each is a round trip on `jupyter`
      transmit
      return unless @carrier.slow?
      nil until @ended || Values.decode(@carrier.receive)["method"] == "continue"
      @quiet = clock + 0.1
    end

    def serve(message)
      id, method, params = message.values_at("id", "method", "params")
      outcome = outcome_of { unmasked { answer(method, params) } }
      [$stdout, $stderr].each(&:flush)
      transmit(%({"jsonrpc":"2.0","id":#{id},#{outcome}})) unless @ended
    end

    def outcome_of # the end of a response
      result = yield
      %("result":#{result.is_a?(Outcomes) ? result : Values.encode(result)})
    rescue Exception => error # rubocop:disable Lint/RescueException -- also interrupts, `exit`, and no stack left
      %("error":#{Values.encode(failure(error, caller(0).size))})
    end

    Outcomes = Class.new(String) # JSON already

    def failure(error, outside) # as an error of the protocol; the outermost frames, `outside`, are not the author's
      inside = ->(it) { (it.backtrace || []).then { |all| all[0, [all.size - outside, 0].max] }.grep_v(/\A#{Regexp.escape(__FILE__)}:/o) }
      return error.to_wire if error.is_a?(Error) && !error.error && inside.(error).empty? # the shim's own refusal
      chain = [error]
      chain << chain[-1].cause while chain[-1].cause && chain.size < 10
      lines = chain.flat_map do |it|
        first, *rest = inside.(it)
        rest = [*rest[0, 30], "... #{rest.size - 60} more ...", *rest[-30, 30]] if rest.size > 60 # endless recursion
        ["#{"#{first}: " if first}#{it.message} (#{name_of(it)})".lines(chomp: true), rest.map { |line| "\tfrom #{line}" }]
      end
      kind = error.is_a?(Interrupt) ? "Cancelled" : "Raised"
      data = { kind: kind, ename: name_of(error), evalue: error.message, traceback: lines.flatten }
      remote = chain.find { |it| it.is_a?(Error) && it.error }
      data[:cause] = remote.error if remote
      { code: CODES[kind], message: "#{data[:ename]}: #{error.message}", data: data }
    end

    def name_of(error) = error.is_a?(Error) ? "bridge::Error" : error.class.to_s.delete_prefix("Kernelbridge::Plugin::")

    # ---- The host's requests
    def answer(method, params)
      case method
      when "event", "filter" then find(@handlers, params.delete("handler")).call(Event[params])
      when "events" then events(params)
      when "call" then find(@exports, params["name"], "function").call(*params["args"])
      when "initialize" then start(params)
      when "load" then load_plugin(params)
      when "shutdown" then @farewells.each(&:call) && nil
      else raise Error.new("NotFound", "no method `#{method}`")
      end
    end

    def start(params)
      @plugin, @config = params["plugin"] || {}, params["config"] || {}
      kernel = ", IRuby #{IRuby::VERSION}" if defined?(IRuby::VERSION)
      { bridge: "1", language: "ruby", interpreter: "Ruby #{RUBY_VERSION}#{kernel}", features: ["bytes"] }
    end

    def events(params)
      list = params["events"].map { |event| Event[event] }
      results = find(@handlers, params["handler"]).call(list)
      results = [nil] * list.size unless results.is_a?(Array) && results.size == list.size
      outcomes = results.map { |it| "{#{outcome_of { it.is_a?(Exception) ? raise(it) : it }}}" }
      Outcomes.new(%({"outcomes":[#{outcomes.join(",")}]}))
    end

    def find(table, key, what = "handler")
      table[key] || raise(Error.new("NotFound", "no #{what} `#{key}`"))
    end

    def load_plugin(params)
      @tags, @handlers, @exports, @farewells, @sources = [], {}, {}, [], {}
      home = params["path"] && File.dirname(params["path"])
      if home # what lies beside the entry file is loaded anew with it
        $LOAD_PATH.unshift(home) unless $LOAD_PATH.include?(home)
        $LOADED_FEATURES.reject! { |feature| feature.start_with?("#{home}/") }
      end
      scope = new_namespace(home).module_eval("binding", __FILE__, __LINE__) # a string, else constants would land here
      params["cells"].each do |cell|
        @sources[cell["name"]] = cell["source"].lines
        scope.eval(cell["source"], cell["name"], 1)
      end
      { handlers: @tags, async: false }
    end

    def new_namespace(home)
      remove_const(:Plugin) if const_defined?(:Plugin, false)
      const_set(:Plugin, Module.new { extend self }).tap do |plugin| # extended by itself, so that a `def` can be called
        next unless home
        plugin.define_singleton_method(:__dir__) { home }
        plugin.define_singleton_method(:require_relative) { |path| require(File.expand_path(path, home)) }
      end
    end

    def doc_above(file = nil, line = 1) # the comment just above a function
      above = (@sources[file] || []).first(line - 1).reverse.take_while { |it| it.match?(/\A\s*#/) }
      above.reverse.map { |it| it.sub(/\A\s*#+ ?/, "").chomp }.join("\n")
    end
  end

  # ---- What the author sees
  module State # values shared by the application and all its plugins, by key
    module_function

    def get(key, default = nil) = (value = Bridge.call("state.get", key)).nil? ? default : value
    def set(key, value) = Bridge.call("state.set", key, value)
    def delete(key) = Bridge.call("state.delete", key)
    def list(prefix = "") = Bridge.call("state.list", prefix)

    def update(key, default = nil)
      loop do # until nobody else was quicker
        value, version = Bridge.call("state.read", key).values_at("value", "version")
        value = yield(value.nil? ? default : value)
        return value if Bridge.call("state.swap", key, version, value)["swapped"]
      end
    end
  end

  Log = Module.new
  %w[debug info warn error].each do |level|
    Log.define_singleton_method(level) do |message, fields = {}, **more|
      Kernelbridge.notify("log", { level: level, message: message.to_s, fields: { **fields, **more } })
    end
  end

  # All that a plugin has of its host. A function is a block, or anything with `call` and `source_location`.
  module Bridge
    Error, Event = Kernelbridge::Error, Kernelbridge::Event

    class << self
      def on(topic, fn = nil, batch: 0, &block) = Kernelbridge.register("on", fn || block, topic: topic, batch: batch)
      def filter(topic, fn = nil, priority: 0, &block)
        Kernelbridge.register("filter", fn || block, topic: topic, priority: priority)
      end

      def export(name, fn = nil, &block) # also `bridge.export def area(r) ... end`
        Kernelbridge.register("export", fn || block || Kernelbridge.author_method(name), name: name.to_s)
      end

      def on_shutdown(fn = nil, &block) = Kernelbridge.farewell(fn || block)
      def call(name, *args) = Kernelbridge.request("call", { name: name, args: args })
      def emit(topic, data = nil, key: nil) = Kernelbridge.request("emit", { topic: topic, data: data, key: key })
      def progress(done, total = nil, message = nil)
        Kernelbridge.notify("progress", { done: done, total: total, message: message })
      end

      def state = State
      def log = Log
      def config = Kernelbridge.config
      def plugin = Kernelbridge.plugin
    end
  end
end

module Kernel
  def bridge = Kernelbridge::Bridge
  # Ruby's own read the files named in ARGV first, which in IRuby are the kernel's arguments.
  def gets(...) = $stdin.gets(...)
  def readline(...) = $stdin.readline(...)
  module_function :bridge, :gets, :readline
end
