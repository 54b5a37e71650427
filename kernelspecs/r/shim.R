# kernelbridge shim for R on IRkernel: the plugin protocol (docs/protocol.md) between this interpreter and its host.
# The kernel executes this text once. It leaves one name, `bridge`, on the search path, out of reach of rm(list = ls()).
# It needs jsonlite and evaluate, which IRkernel itself depends on. Frames are read and written with interrupts
# suspended, so that none is ever cut in two; only author code runs with interrupts allowed.
local({
  up <- down <- NULL   # the FIFO pair, while a pipe turn runs; without it the carrier is jupyter
  ask <- NULL          # jupyter: IRkernel's own readline()
  heard <- NULL        # jupyter: the answer to the last prompt, until somebody takes it
  ended <- TRUE        # no turn runs, or its `end` was read: nothing may be sent
  blobs <- 0           # files of large values so far
  sent <- served <- 0  # ids of our last request and of the host's
  drawn <- FALSE       # something was plotted since the last response
  printed <- NULL      # in a comm's turn: the file that prints go to until they are sent
  canvas <- 0L         # the device that was opened last for want of another
  handlers <- list()   # by id, which no two plugins share
  spaces <- list()     # the plugins: one in space 0, or several that share the kernel
  here <- NULL         # the one whose folder is in place
  cells <- FALSE       # somebody else has the kernel run code, which is no plugin's
  cell <- NULL         # while loading: srcfile and first line of the running expression
  `%||%` <- function(a, b) if (is.null(a)) b else a  # base has it since R 4.4

  # ---- JSON. jsonlite reads. Writing is ours, because toJSON() takes 50 to 300 us for the smallest value and cuts
  # integers above 1e15; classed values (data frames, dates, factors, I()) and matrices still go to toJSON().
  quoted <- function(x) {
    x <- enc2utf8(x)
    if (!all(validUTF8(x))) stop("a string is not valid UTF-8", call. = FALSE)
    if (!any(grepl("[\"\\\\\001-\037]", x, perl = TRUE, useBytes = TRUE))) return(paste0("\"", x, "\"", recycle0 = TRUE))
    as.character(jsonlite::toJSON(x, collapse = FALSE))
  }
  decimal <- function(x) {
    if (!anyNA(x) && all(x == trunc(x) & abs(x) < 1e9)) return(as.character(as.integer(x)))  # five times as quick
    text <- sprintf("%.15g", x)
    finite <- which(is.finite(x))
    longer <- finite[as.numeric(text[finite]) != x[finite]]
    text[longer] <- sprintf("%.17g", x[longer])
    text[is.infinite(x)] <- "null"
    text
  }
  base64 <- function(x) gsub("\n", "", jsonlite::base64_enc(x), fixed = TRUE)  # a line feed would end the string
  encode <- function(x) {
    if (is.null(x)) return("null")
    if (inherits(x, "bridge_json")) return(unclass(x))
    if (is_large(x)) return(encode(blob(x)))
    if (is.object(x) || !is.null(dim(x))) {
      return(as.character(jsonlite::toJSON(x, auto_unbox = TRUE, digits = NA, null = "null", na = "null")))
    }
    if (is.list(x)) {
      items <- vapply(x, encode, "", USE.NAMES = FALSE)
      if (is.null(names(x))) return(paste0("[", paste(items, collapse = ","), "]"))
      return(paste0("{", paste(quoted(names(x)), items, sep = ":", collapse = ",", recycle0 = TRUE), "}"))
    }
    text <- switch(typeof(x),
      character = quoted(x), double = decimal(x), integer = as.character(x), logical = c("false", "true")[x + 1L],
      complex = quoted(as.character(x)), raw = return(paste0("{\"$bytes\":\"", base64(x), "\"}")),
      stop("a value of type ", typeof(x), " has no JSON form", call. = FALSE))
    text[is.na(x)] <- "null"
    if (length(text) == 1L) text else paste0("[", paste(text, collapse = ","), "]")
  }
  # A vector as a JSON array, also one of length 1.
  encode_column <- function(x) {
    if (is.factor(x)) x <- as.character(x)
    if (is.object(x) || !is.null(dim(x))) {
      return(as.character(jsonlite::toJSON(x, digits = NA, null = "null", na = "null")))
    }
    text <- encode(x)
    if (!is.list(x) && length(x) == 1L) paste0("[", text, "]") else text
  }
  # The columns of a batch are the last and large; they become vectors while they are read, which lists of values do not.
  decode_columns <- function(text) {
    if (grepl(",\"packed\":{\"$b", text, fixed = TRUE, useBytes = TRUE)) {
      message <- jsonlite::parse_json(text)
      message$params$packed <- restore(message$params$packed)
      if (grepl("\"[$]b.*\"[$]b", text, useBytes = TRUE)) message <- restore(message)
      message$params$columns <- unpack(message$params)
      return(message)
    }
    mark <- ",\"columns\":"  # in a string its quotes would have backslashes
    at <- regexpr(mark, text, fixed = TRUE, useBytes = TRUE)
    bytes <- charToRaw(text)
    part <- function(from, to) {
      part <- rawToChar(bytes[from:to])
      Encoding(part) <- "UTF-8"
      part
    }
    message <- decode(paste0(part(1L, at - 1L), "}}"))
    columns <- part(at + nchar(mark), length(bytes) - 2L)
    message$params$columns <- if (grepl("\"$b", columns, fixed = TRUE, useBytes = TRUE) || length(message$params$mixed)) {
      mixed <- unlist(message$params$mixed)
      columns <- decode(columns)
      for (name in names(columns)) columns[[name]] <- vector_of(columns[[name]], name %in% mixed)
      columns
    } else jsonlite::parse_json(columns, simplifyVector = TRUE, simplifyDataFrame = FALSE, simplifyMatrix = FALSE)
    message
  }
  # Columns as bytes, one after the other; the others are lists of values.
  unpack <- function(params) {
    con <- rawConnection(params$packed %||% raw())
    on.exit(close(con))
    n <- params$count
    mixed <- unlist(params$mixed)
    columns <- params$columns
    for (name in names(columns)) {
      column <- columns[[name]]
      columns[[name]] <- if (is.list(column)) vector_of(column, name %in% mixed) else switch(substr(column, 1L, 3L),
        i32 = readBin(con, "integer", n, endian = "little"),
        f64 = readBin(con, "double", n, endian = "little"),
        boo = readBin(con, "logical", n, endian = "little"),
        asc = readBin(readBin(con, "raw", as.numeric(substring(column, 7L))), "character", n),
        str = {
          x <- readBin(readBin(con, "raw", as.numeric(substring(column, 5L))), "character", n)
          missing <- x == "\xff"  # that byte is in no text
          Encoding(x) <- "UTF-8"
          x[missing] <- NA
          x
        })
    }
    columns
  }
  # The same the other way; NULL where that is not worth it.
  pack <- function(values, fewest = 32L) {
    n <- length(values[[1L]])
    if (n < fewest || is.null(up)) return(NULL)
    bytes <- vector("list", length(values))
    types <- character(length(values))
    for (i in seq_along(values)) {
      x <- values[[i]]
      if (is.factor(x)) x <- as.character(x)
      type <- if (is.object(x) || !is.null(dim(x))) "" else typeof(x)
      types[i] <- switch(type, double = "\"f64\"", integer = "\"i32\"", logical = "\"bool\"", character = "\"str\"",
        encode_column(x))
      bytes[i] <- list(switch(type, double = , integer = x, logical = as.integer(x), character = {
        x <- enc2utf8(x)
        x[is.na(x)] <- "\xff"
        x
      }))
    }
    blobs <<- blobs + 1
    path <- file.path(Sys.getenv("KERNELBRIDGE_BLOBS"), sprintf("%d", blobs))
    con <- file(path, "wb", raw = TRUE)
    tryCatch(for (x in bytes) if (!is.null(x)) writeBin(x, con, endian = "little", useBytes = TRUE), finally = close(con))
    paste0("\"packed\":{\"$blob\":", quoted(path), ",\"dtype\":\"u8\",\"shape\":[", decimal(file.size(path)),
      "],\"bytes\":true},\"columns\":{", paste(quoted(names(values)), types, sep = ":", collapse = ","), "}")
  }
  columns_of <- function(values) paste0("\"columns\":{",
    paste(quoted(names(values)), vapply(unclass(values), encode_column, ""), sep = ":", collapse = ","), "}")
  is_table <- function(x) is.list(x) && length(x) > 0L && !is.null(names(x)) && length(unique(lengths(x))) == 1L
  json <- function(...) structure(paste0("{", ..., "}"), class = "bridge_json")
  frame_of <- function(params) {  # data.frame() would change names and refuse lists
    frame <- structure(as.list(params$columns), class = "data.frame", row.names = .set_row_names(params$count))
    if (is.null(names(frame))) names(frame) <- character()
    frame
  }
  vector_of <- function(column, is_mixed) {
    scalar <- vapply(column, function(x) is.null(x) || (is.atomic(x) && !is.raw(x)), NA)
    if (is_mixed || !all(scalar)) return(column)
    column[vapply(column, is.null, NA)] <- NA
    unlist(column)
  }
  decode <- function(text) {
    value <- jsonlite::parse_json(text)
    if (grepl("\"$b", text, fixed = TRUE, useBytes = TRUE)) restore(value) else value
  }
  restore <- function(x) {
    if (identical(names(x)[1L], "$blob") && !is.null(x$dtype)) return(unblob(x))
    if (identical(names(x), "$bytes") && is.character(x[[1L]])) return(jsonlite::base64_dec(x[[1L]]))
    if (is.list(x)) x[] <- lapply(x, restore)
    x
  }

  # ---- Large values: files, or chunks of base64. Files have the last index first to vary, R's arrays the first.
  is_large <- function(x) {
    size <- length(x) * switch(typeof(x), double = 8, integer = 4, logical = 1, raw = 1, 0)
    size >= 65536 && !is.object(x)
  }
  blob <- function(x) {
    shape <- dim(x) %||% length(x)
    if (length(shape) > 1L) x <- aperm(x)
    if (is.integer(x) && anyNA(x)) x <- as.double(x)  # NA is a number there
    dtype <- switch(typeof(x), double = "f64", integer = "i32", logical = if (anyNA(x)) "f64" else "bool", raw = "u8")
    x <- switch(dtype, f64 = as.double(x), bool = as.raw(x), as.vector(x))
    if (is.null(up)) {
      bytes <- if (is.raw(x)) x else writeBin(x, raw(), endian = "little")
      starts <- seq(1, length(bytes), by = 786432)
      content <- lapply(starts, function(at) base64(bytes[at:min(at + 786431, length(bytes))]))
    } else {
      blobs <<- blobs + 1
      content <- file.path(Sys.getenv("KERNELBRIDGE_BLOBS"), sprintf("%d", blobs))
      con <- file(content, "wb", raw = TRUE)
      on.exit(close(con))
      writeBin(x, con, endian = "little")
    }
    c(list(`$blob` = content, dtype = dtype, shape = as.list(shape)), if (is.raw(x) && dtype == "u8") list(bytes = TRUE))
  }
  unblob <- function(x) {
    shape <- as.numeric(unlist(x$shape))
    from <- x[[1L]]
    if (is.list(from)) from <- as.raw(unlist(lapply(from, jsonlite::base64_dec)))
    else {
      from <- file(from, "rb", raw = TRUE)
      on.exit(close(from))
    }
    n <- prod(shape)
    take <- function(what, count = n, ...) readBin(from, what, count, endian = "little", ...)
    wide <- function(is_signed) {  # of 64 bits, of which R's numbers keep 53
      words <- take("integer", 2 * n)
      words[is.na(words)] <- -2^31
      low <- words[c(TRUE, FALSE)] %% 2^32
      high <- words[c(FALSE, TRUE)]
      low + (if (is_signed) high else high %% 2^32) * 2^32
    }
    value <- switch(x$dtype,
      f64 = take("double"), f32 = take("double", size = 4L), i64 = wide(TRUE), u64 = wide(FALSE),
      i32 = take("integer"), i16 = take("integer", size = 2L), i8 = take("integer", size = 1L),
      u32 = take("integer") %% 2^32, u16 = take("integer", size = 2L, signed = FALSE),
      u8 = if (isTRUE(x$bytes)) take("raw") else take("integer", size = 1L, signed = FALSE),
      bool = as.logical(take("raw")))
    if (length(shape) > 1L) aperm(array(value, rev(shape))) else value
  }

  # ---- Carriers
  say <- function(...) {
    text <- paste0("{\"jsonrpc\":\"2.0\",", ..., "}")
    if (is.null(up)) return(heard <<- ask(text))
    writeLines(c(sprintf("%d", nchar(text, "bytes") + 1L), text), up, useBytes = TRUE)
    flush(up)
  }
  hear <- function() {
    if (is.null(down)) {
      text <- heard %||% ask("[]")
      heard <<- NULL
    } else {
      size <- readLines(down, 1L)
      if (!length(size)) stop("the host has closed the pipe", call. = FALSE)
      text <- readChar(down, c(as.integer(size) - 1L, 1L), useBytes = TRUE)[1L]  # the body, and the line feed at its end
      Encoding(text) <- "UTF-8"
    }
    if (grepl("^[^{]*[{][^{}]*\"method\":\"(columns|table)\"", substr(text, 1L, 80L))) decode_columns(text) else decode(text)
  }
  notify <- function(method, params) {
    if (ended && cells) return(in_cell(notify(method, params)))
    if (!ended) suspendInterrupts({
      say("\"method\":\"", method, "\",\"params\":", encode(params))
      if (is.null(up)) while (!identical(hear()$method, "continue")) NULL
    })
  }
  # Code of a cell asks for something while no turn is open: the pipes are, for as long as that takes.
  in_cell <- function(value) suspendInterrupts({
    on.exit({
      for (file in list(up, down)) if (!is.null(file)) close(file)
      up <<- down <<- NULL
      ended <<- TRUE
    })
    ended <<- FALSE
    open_pipes()
    # The frame that got the frontend's message is among the first.
    for (frame in sys.frames()) if (is.list(request <- get0("msg", frame, inherits = FALSE)) && is.character(request$header$msg_id)) {
      say("\"method\":\"cell\",\"params\":", encode(list(id = request$header$msg_id)))
      break
    }
    value
  })
  open_pipes <- function() {  # "e" is O_CLOEXEC, and the mode must end in "b"
    up <<- file(file.path(Sys.getenv("KERNELBRIDGE_DIR"), "to-host"), "web", raw = TRUE)
    down <<- file(file.path(Sys.getenv("KERNELBRIDGE_DIR"), "to-plugin"), "reb", raw = TRUE)
  }
  request <- function(method, params) {
    if (ended && cells) return(in_cell(request(method, params)))
    params <- tryCatch(encode(params), error = function(e) fail("Invalid", conditionMessage(e)))
    if (!ended) suspendInterrupts({
      id <- sent <<- sent + 1
      space <- here
      say("\"id\":", decimal(id), ",\"method\":\"", method, "\",\"params\":", params)
      repeat {
        message <- hear()
        if (!is.null(message$method)) serve(message)
        if (ended || (is.null(message$method) && isTRUE(message$id == id))) break
      }
    })
    move(space)  # another plugin may have been served
    Sys.sleep(0)  # an interrupt that came while we waited fires here
    if (ended) fail("Cancelled", "the turn is over")
    e <- message$error
    if (!is.null(e)) fail(e$data$kind %||% "Host", e$message, e$data, e)
    message$result
  }
  # The native exception, for tryCatch(..., bridge_error = function(e) e$kind); `cause` is the error as it was received.
  fail <- function(kind, message, data = NULL, cause = NULL) {
    fields <- list(message = message, kind = kind, data = data, cause = cause)
    stop(structure(fields, class = c("bridge_error", "error", "condition")))
  }

  # ---- Running author code. The call names its arguments instead of holding them, for tracebacks and match.call().
  invoke <- function(fn, args) do.call("fn", lapply(seq_along(args), function(i) call("[[", quote(args), i)))
  # The author's part of the stack, outermost first: the frames above the innermost invoke() that stand in the plugin's
  # source, and the call that raised if it stands elsewhere.
  stack <- function(label, raiser) {
    calls <- sys.calls()
    raiser <- if (!is.null(raiser) && !identical(raiser[[1L]], quote(fn))) deparse(raiser, nlines = 1L)[[1L]]
    inner <- length(calls)
    while (!identical(sys.function(inner), invoke)) inner <- inner - 1L
    lines <- if (!is.null(cell)) sprintf("%s:%d", cell$file$filename, cell$line)
    for (i in seq(inner + 1L, length(calls))) {
      ref <- attr(calls[[i]], "srcref") %||% attr(sys.function(i), "srcref")
      if (!isTRUE(attr(ref, "srcfile")$plugin)) next
      text <- deparse(calls[[i]], nlines = 1L)[[1L]]
      if (identical(text, raiser)) raiser <- NULL
      if (identical(calls[[i]][[1L]], quote(fn))) text <- label
      lines <- c(lines, sprintf("%s:%d: %s", attr(ref, "srcfile")$filename, ref[[1L]], text))
    }
    if (length(lines) > 60L) lines <- c(head(lines, 30L), "...", tail(lines, 29L))  # endless recursion
    as.list(c(lines, raiser))
  }
  error_object <- function(kind, code, message, ...) list(code = code, message = message, data = list(kind = kind, ...))
  raised <- function(e, trace = list()) {
    name <- class(e)[[1L]]
    text <- paste(conditionMessage(e), collapse = "\n")
    answer <- error_object("Raised", -32000L, paste0(name, ": ", text), ename = name, evalue = text, traceback = trace)
    if (inherits(e, "bridge_error")) answer$data$cause <- e$cause
    answer
  }
  # Ends a request with an error that author code had no part in.
  refuse <- function(answer) stop(structure(list(answer = answer), class = c("bridge_refusal", "error", "condition")))
  not_found <- function(...) refuse(error_object("NotFound", -32601L, paste0(...)))

  # Forces `value`, a promise of author code, and gives the outcome as JSON text: "result":... or "error":{...}.
  outcome <- function(label, value) {
    trace <- list()
    note <- function(e) if (!inherits(e, "bridge_refusal")) trace <<- stack(label, conditionCall(e))
    unsendable <- function(e) error_object("Invalid", -32602L, paste0(label, ": the value cannot be sent: ", conditionMessage(e)))
    answer <- tryCatch({
      allowInterrupts(withCallingHandlers(value, error = note))
      tryCatch(return(paste0("\"result\":", encode(value))), error = unsendable)
    },
      interrupt = function(i) error_object("Cancelled", -32003L, "interrupted"),
      error = function(e) if (inherits(e, "bridge_refusal")) e$answer else raised(e, trace))
    paste0("\"error\":", encode(answer))
  }

  # evaluate keeps prints until the cell ends and IRkernel keeps plots, but a turn is long: both go out per response.
  show_output <- function() {
    if (is.null(printed)) evaluate::flush_console() else send_printed()
    if (drawn) try(silent = TRUE, {
      if (is.null(printed)) for (hook in getHook("before.plot.new")) hook() else record(if_page_is_full = FALSE)
      kernel <- executor()
      if (!is.null(kernel$last_recorded_plot)) kernel$send_plot(kernel$last_recorded_plot)
      kernel$last_recorded_plot <- NULL
    })
    drawn <<- FALSE
  }
  executor <- function() environment(getOption("jupyter.base_display_func"))$.self

  # ---- In a comm's turn evaluate is not there to see what author code prints and plots; it would cost as much as the
  # whole turn.
  send_printed <- function() suspendInterrupts({
    size <- seek(printed, rw = "write")
    if (size) {
      bytes <- readBin(printed, raw(), size)
      for (rw in c("read", "write")) seek(printed, 0, rw = rw)
      truncate(printed)
      send_output("stdout", rawToChar(bytes[bytes != 0L]))
    }
  })
  send_output <- function(name, text) {
    if (!validUTF8(text)) text <- iconv(text, "UTF-8", "UTF-8", sub = "byte")
    bytes <- charToRaw(text)
    starts <- seq(1L, length(bytes), by = 8192L)  # far below any limit of a message
    for (i in 1:3) starts <- starts - ((bytes[starts] & as.raw(0xc0)) == 0x80)  # cut no character
    for (part in Map(function(from, to) rawToChar(bytes[from:to]), starts, c(starts[-1L] - 1L, length(bytes)))) {
      Encoding(part) <- "UTF-8"
      notify("output", list(name = name, text = part))
    }
  }
  # Of the canvas only: what an author's own device draws goes where the author wants it.
  record <- function(if_page_is_full = TRUE) {
    if (is.null(printed) || !drawn || dev.cur() != canvas || (if_page_is_full && !par("page"))) return()
    plot <- recordPlot()
    if (length(plot[[1L]])) executor()$handle_graphics(plot)
  }
  captured <- function(value) {
    depth <- sink.number()
    printed <<- file("", "w+b")
    sink(printed)
    old <- options(try.outFile = printed)
    on.exit({
      while (sink.number() > depth) sink()
      try(close(printed), silent = TRUE)
      printed <<- NULL
      options(old)
      if (canvas %in% dev.list()) dev.off(canvas)
      canvas <<- 0L
    })
    # As evaluate and IRkernel have it.
    withCallingHandlers(value,
      message = function(m) {
        send_printed()
        send_output("stderr", conditionMessage(m))
        invokeRestart("muffleMessage")
      },
      warning = function(w) {
        if (getOption("warn") >= 2) return()
        if (getOption("warn") >= 0) {
          send_printed()
          call <- if (!is.null(conditionCall(w))) paste(" in", deparse(conditionCall(w), nlines = 1L)[[1L]])
          send_output("stderr", paste0("Warning message", call, ":\n", dQuote(conditionMessage(w)), "\n"))
        }
        invokeRestart("muffleWarning")
      })
  }

  # ---- One function for each message of the host
  run_handler <- function(params) {
    handler <- handlers[params$handler][[1L]] %||% not_found("no handler ", params$handler)
    move(handler$space)
    invoke(handler$fn, list(params$events %||% params[names(params) != "handler"]))
  }
  # What the events of a batch have beside their data.
  head_of <- function(params) {
    repeated <- function(runs) unlist(lapply(runs, function(run) rep(run[[1L]] %||% NA_character_, run[[2L]])))
    counted <- function(run) if (length(run) == 1L) run[[1L]] else paste0(run[[1L]], decimal(run[[2L]] + seq_len(run[[3L]]) - 1))
    list(count = params$count, ids = unlist(lapply(params$ids, counted)), topics = repeated(params$topics),
      times = repeated(params$times), attempts = repeated(params$attempts), keys = repeated(params$keys))
  }
  methods <- list(
    initialize = function(params) {
      space <- if (is.null(params$space)) spaces[["0"]] else new_space(params$space)
      space$config <- params$config
      space$folder <- params$folder
      space$name <- params$plugin$name
      here <<- NULL
      cells <<- isTRUE(params$cells)
      move(space)
      # On `jupyter` a response waits for the host's next message, and the rest of an array would wait with it.
      features <- as.list(c("blob", "series", "columns", "tables", "shared", if (!is.null(up)) c("batch", "packed")))
      list(bridge = "1", language = "r", interpreter = R.version.string, features = features)
    },
    load = function(params) {
      plugin <- space_of(params)
      forget(plugin)
      move(plugin)
      space <- new.env(parent = globalenv())
      assign("bridge", plugin$bridge, envir = space)
      on.exit(cell <<- NULL)
      for (part in params$cells) {
        lines <- sub("\r$", "", strsplit(part$source, "\n", fixed = TRUE)[[1L]])
        file <- list2env(list(plugin = TRUE), srcfilecopy(paste(c(if (!is.null(plugin$id)) plugin$name, part$name), collapse = "/"), lines))
        code <- tryCatch(parse(text = lines, srcfile = file, keep.source = TRUE), error = function(e)
          refuse(raised(structure(e, class = c("parseError", class(e))), as.list(strsplit(conditionMessage(e), "\n")[[1L]]))))
        for (i in seq_along(code)) {
          cell <<- list(file = file, line = attr(code, "srcref")[[i]][[1L]])
          invoke(eval, list(code[[i]], space))
        }
      }
      list(handlers = tags_of(plugin), async = FALSE)
    },
    event = run_handler, filter = run_handler,
    events = function(params) {
      values <- run_handler(params)
      n <- length(params$events)
      if (!is.vector(values) || !is.null(names(values)) || length(values) != n) values <- vector("list", n)
      list(outcomes = lapply(values, function(v) if (inherits(v, "error")) list(error = raised(v)) else list(result = v)))
    },
    columns = function(params) {
      handler <- handlers[params$handler][[1L]] %||% not_found("no handler ", params$handler)
      move(handler$space)
      n <- params$count
      frame <- frame_of(params)
      two <- length(formals(args(handler$fn))) > 1L
      values <- invoke(handler$fn, if (two) list(frame, head_of(params)) else list(frame))
      if (!is.null(values) && is.null(names(values)) && is.vector(values) && length(values) == n) {
        failed <- is.list(values) && any(vapply(values, inherits, NA, "error"))
        if (!failed) return(json("\"results\":", encode_column(values)))
        return(list(outcomes = lapply(values, function(v) if (inherits(v, "error")) list(error = raised(v)) else list(result = v))))
      }
      if (is_table(values) && length(values[[1L]]) == n) return(json(pack(unclass(values)) %||% columns_of(values)))
      list(done = n)
    },
    table = function(params) {
      values <- invoke(export_of(params), list(frame_of(params)))
      if (!is_table(values)) return(values)  # the host says what it wants
      json("\"count\":", decimal(length(values[[1L]])), ",", pack(unclass(values), fewest = 0L) %||% columns_of(values))
    },
    call = function(params) invoke(export_of(params), params$args),
    shutdown = function(params) {
      space <- spaces[[paste(params$space %||% 0)]]
      if (is.null(space)) return(NULL)
      if (!is.null(space$id)) on.exit({  # the kernel goes on without it
        forget(space)
        spaces[[paste(space$id)]] <<- NULL
      })
      move(space)
      for (fn in space$shutdowns) invoke(fn, list())
    })
  space_of <- function(params) spaces[[paste(params$space %||% 0)]] %||% not_found("no space ", params$space)
  export_of <- function(params) {
    space <- space_of(params)
    fn <- space$exports[[params$name]] %||% not_found("no function `", params$name, "`")
    move(space)
    fn
  }
  tags_of <- function(space) lapply(unname(handlers[space$ids]), function(h) h[!names(h) %in% c("fn", "space")])
  # What it registered.
  forget <- function(space) {
    for (id in space$ids) handlers[id] <<- list(NULL)
    space$ids <- integer()
    space$exports <- space$shutdowns <- list()
  }
  # Each plugin has its folder.
  move <- function(space) {
    if (is.null(space) || identical(space, here)) return(invisible())
    here <<- space
    if (!is.null(space$folder)) setwd(space$folder)
  }

  serve <- function(message, last = served) {
    if (message$method == "end") ended <<- TRUE
    if (is.null(message$id) || message$id <= last) return()
    served <<- max(served, message$id)
    text <- if (message$method == "series") series(message$params) else attempt(message$method, message$params)
    if (ended) return()
    show_output()
    say("\"id\":", decimal(message$id), ",", text)
  }

  attempt <- function(method, params) {
    label <- paste(c(method, params$name, params$topic), collapse = " ")
    outcome(label, (methods[[method]] %||% not_found("no method `", method, "`"))(params))
  }
  # Events one after the other, until one fails or time is up.
  series <- function(params) {
    outcomes <- NULL
    began <- last <- milliseconds()
    for (event in params$events) {
      text <- attempt("event", c(event, params["chain"]))
      now <- milliseconds()
      outcomes <- c(outcomes, paste0("{", text, ",\"ms\":", sprintf("%.3f", now - last), "}"))
      last <- now
      if (ended || startsWith(text, "\"error\"") || now - began > params$within_ms) break
    }
    paste0("\"result\":{\"outcomes\":[", paste(outcomes, collapse = ","), "]}")
  }
  milliseconds <- function() unclass(Sys.time()) * 1000

  # IRkernel swallows what a comm's handler raises, and an interrupt that it does not catch itself ends the kernel.
  comm_turn <- function(data) tryCatch(suspendInterrupts(captured(run_turn("pipe"))), interrupt = function(i) NULL,
    error = function(e) cat("kernelbridge:", conditionMessage(e), "\n", file = stderr()))
  forget_interrupt <- function() tryCatch(allowInterrupts(Sys.sleep(0)), interrupt = function(i) NULL)
  run_turn <- function(via) {
    on.exit({
      for (file in list(up, down)) if (!is.null(file)) try(close(file), silent = TRUE)  # an author may have closed all
      set_readline(ask)
      up <<- down <<- heard <<- NULL
      ended <<- TRUE
      forget_interrupt()
    })
    ended <<- FALSE
    ask <<- base::readline  # IRkernel puts its own there at every execute_request
    set_readline(keyboard)
    if (via == "pipe") open_pipes()
    say("\"method\":\"ready\"")
    while (!ended) {
      message <- hear()
      messages <- if (is.null(names(message))) message else list(message)
      last <- served  # what comes back to us from one of several has a greater id than the next
      for (message in messages) {
        forget_interrupt()  # one that came too late for the handler it was meant for
        if (!ended && !is.null(message$method)) serve(message, last)
      }
    }
  }
  # The author's keyboard reads become a host call, also inside packages.
  keyboard <- function(prompt = "") host_call("host.input", prompt)
  set_readline <- function(fn) {
    unlockBinding("readline", baseenv())
    assign("readline", fn, envir = baseenv())
    lockBinding("readline", baseenv())
  }

  # ---- What authors see
  register <- function(space, kind, name, topic, fn, ...) {
    stopifnot(is.character(topic), length(topic) == 1L, is.function(fn))
    name <- if (is.call(name)) topic else as.character(name)
    # In a cell that is run again: events that are on their way go to the new one.
    is_same <- function(id) cells && identical(unname(handlers[[id]][c("kind", "topic", "name")]), list(kind, topic, name))
    id <- c(Filter(is_same, space$ids), length(handlers) + 1L)[[1L]]
    handlers[[id]] <<- list(id = id, kind = kind, topic = topic, name = name, ..., fn = fn, space = space)
    space$ids <- union(space$ids, id)
    if (cells) notify("handlers", list(handlers = tags_of(space), space = space$id))
    invisible(fn)
  }
  # The roxygen comment right above a function's source, or above the expression that exports it.
  roxygen <- function(fn) {
    if (is.null(cell)) return("")
    ref <- attr(fn, "srcref")
    for (line in c(if (identical(attr(ref, "srcfile"), cell$file)) ref[[1L]], cell$line)) {
      first <- line
      while (first > 1L && grepl("^\\s*#'", cell$file$lines[[first - 1L]])) first <- first - 1L
      if (first < line) return(paste(sub("^\\s*#' ?", "", cell$file$lines[first:(line - 1L)]), collapse = "\n"))
    }
    ""
  }
  host_call <- function(name, ...) request("call", list(name = name, args = unname(list(...))))
  # A plugin: what it registered, and its `bridge`.
  new_space <- function(id = NULL) {
    space <- list2env(list(id = id, config = list(), folder = NULL, ids = integer(), exports = list(), shutdowns = list()))
    spaces[[paste(id %||% 0)]] <<- space
    bridge <- list2env(parent = emptyenv(), list(
      .turn = function(via) suspendInterrupts(run_turn(via)),
      # batch: a number for lists of events, or "columns" for data frames.
      on = function(topic, fn, batch = 0, columns = identical(batch, "columns")) {
        force(columns)
        if (is.character(batch) && batch != "columns") stop("batch: a number or \"columns\", not \"", batch, "\"")
        batch <- if (is.character(batch)) 0L else as.integer(batch)
        register(space, "on", substitute(fn), topic, fn, batch = batch, columns = if (columns) "columns" else "")
      },
      filter = function(topic, fn, priority = 0) register(space, "filter", substitute(fn), topic, fn, priority = as.integer(priority)),
      export = function(name, fn) {
        register(space, "export", name, "", fn, doc = roxygen(fn))
        invisible(space$exports[[name]] <- fn)
      },
      call = host_call,
      emit = function(topic, data = NULL, key = NULL) invisible(request("emit", list(topic = topic, data = data, key = key))),
      # Of a notebook: live events of a running host come to its handlers, as copies or instead of a plugin's.
      connect = function(host = NULL, replace = NULL) host_call("host.connect", list(host = host, replace = replace)),
      disconnect = function() invisible(host_call("host.disconnect")),
      state = list(
        get = function(key, default = NULL) host_call("state.get", key) %||% default,
        set = function(key, value) invisible(host_call("state.set", key, value)),
        # With an event as `once`: once for that event, however often it is delivered.
        update = function(key, fn, default = NULL, once = NULL) repeat {
          old <- host_call("state.read", key)
          new <- fn(old$value %||% default)
          swap <- if (is.null(once)) host_call("state.swap", key, old$version, new)
                  else host_call("state.once", once$id, key, old$version, new)
          if (swap$swapped) return(new)
          if (isTRUE(swap$done)) return(old$value)
        },
        delete = function(key) invisible(host_call("state.delete", key)),
        list = function(prefix = "") as.character(host_call("state.list", prefix))),
      log = sapply(c("debug", "info", "warn", "error"), function(level) function(message, fields = NULL) {
        notify("log", list(level = level, message = paste(message, collapse = " "), fields = if (length(fields)) as.list(fields),
          space = space$id))
      }),
      progress = function(done, total = NULL, message = NULL) {
        notify("progress", list(done = done, total = total, message = message, space = space$id))
      },
      on_shutdown = function(fn) invisible(space$shutdowns[[length(space$shutdowns) + 1L]] <- match.fun(fn))))
    makeActiveBinding("config", function() space$config, bridge)
    lockEnvironment(bridge, bindings = TRUE)
    space$bridge <- bridge
    space
  }
  bridge <- new_space()$bridge

  if (!l10n_info()[["UTF-8"]]) Sys.setlocale("LC_CTYPE", "C.UTF-8")
  options(expressions = 50000)  # nested host calls use up the default of 5000
  for (hook in c("before.plot.new", "persp", "before.grid.newpage")) setHook(hook, function(...) record())
  for (hook in c("plot.new", "persp", "grid.newpage")) setHook(hook, function(...) {
    drawn <<- drawn || is.null(printed) || dev.cur() == canvas
  })
  device <- getOption("device")
  options(device = function(...) {
    match.fun(device)(...)
    dev.control(displaylist = "enable")
    canvas <<- dev.cur()
  })
  try(silent = TRUE, {
    comm <- IRkernel::comm_manager()$new_comm("kernelbridge", "kernelbridge")
    comm$on_msg(comm_turn)
    IRkernel::comm_manager()$register_comm(comm)
  })
  # getPass() hides IRkernel's own, further down the search path.
  attach(list(bridge = bridge, getPass = keyboard), name = "kernelbridge", warn.conflicts = FALSE)
})
