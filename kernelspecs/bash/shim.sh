# kernelbridge shim for Bash 5 under bash_kernel: docs/protocol.md over the `pipe` carrier.
# JSON stays text: a handler gets JSON and gives JSON; bridge_get, bridge_split, bridge_text and bridge_string look inside.
# Authors use `bridge_*`, `BRIDGE_*` and `REPLY*`, where results come; `_bridge_*` is the shim's own. Bash scopes
# dynamically, so a function that can have author's code above it has no locals but these.

trap : PIPE # not '': the author's children keep the default, and a host that went away does not end Bash
unset HISTFILE # bash_kernel's Bash is interactive; the turn's constant has no place in the user's history
_bridge_folder=$KERNELBRIDGE_DIR _bridge_open= _bridge_errexit= _bridge_last= BRIDGE_CONFIG={} BRIDGE_ERROR=
_bridge_on_int='_bridge_interrupted || return $_bridge_unwinding'
declare -gi _bridge_id=0 _bridge_served=0 _bridge_depth=0 _bridge_armed=0
declare -gA _bridge_exports=() _bridge_docs=()

# All descriptors are redirections of this function: Bash undoes them however the turn ends. 205 is the handlers' stdin.
_bridge_turn() {
  _bridge_open=1 _bridge_depth=0 _bridge_armed=0
  set -E; trap '_bridge_failed $? || return $_bridge_unwinding' ERR; trap "$_bridge_on_int" INT
  _bridge_send '{"jsonrpc":"2.0","method":"ready"}'
  _bridge_wait 0
  trap - ERR INT; set +E
} </dev/null 201>"$_bridge_folder/to-host" 202<"$_bridge_folder/to-plugin" 203>&1 204>>"$_bridge_folder/stderr" 205</dev/null

# ---- Messages

_bridge_send() { # BODY
  local LC_ALL=C
  ((${#1} < 32768)) || trap '' INT # only a large write can block, and a signal would cut it
  printf '%d\n%s' ${#1} "$1" >&201
  ((${#1} < 32768)) || trap "$_bridge_on_int" INT
}
# A message, matched from the left -> _bridge_method (or `result`, `error`), _bridge_number, _bridge_body: the params, result
# or error, but the last of the params, the only large one, in _bridge_last. No string can hold its `,"name":` unescaped.
_bridge_next() {
  local LC_ALL=C IFS= head k cut=1 last=
  builtin read -r -u 202 k && builtin read -r -N "$k" -u 202 _bridge_body && ((${#_bridge_body} == k)) || return
  [[ ${_bridge_body: -1} != $'\n' ]] || cut=2
  head=${_bridge_body:0:128} _bridge_method= _bridge_number=0 k=17
  [[ $head != '{"jsonrpc":"2.0","id":'* ]] || _bridge_number=${head:22} _bridge_number=${_bridge_number%%,*} k=$((23 + ${#_bridge_number}))
  case ${head:k} in
    '"method":"'*) head=${head:k+10} _bridge_method=${head%%\"*} k=$((k + ${#_bridge_method} + 21)) ;;
    '"result":'*) _bridge_method=result k=$((k + 9)) ;;
    '"error":'*) _bridge_method=error k=$((k + 8)) ;;
  esac
  if ((${#_bridge_body} > k + cut)); then _bridge_body=${_bridge_body:k:-cut}; else _bridge_body=; fi
  case $_bridge_method in
    event | filter) last=',"data":' ;; call) last=',"args":' ;; events) last=',"events":' ;;
    initialize) last=',"config":' ;; load) last=',"cells":' ;; *) return 0 ;;
  esac
  head=${_bridge_body%%"$last"*} _bridge_last=${_bridge_body:${#head}+${#last}:-1} _bridge_body=$head\}
}
_bridge_wait() { # ID: serve until its response is there or, with 0, until `end`; stale messages are dropped
  while [[ $_bridge_open ]] && _bridge_next; do
    case $_bridge_method in
      end) _bridge_open= ;;
      result) (($1 != _bridge_number)) || { REPLY=$_bridge_body _bridge_body= BRIDGE_ERROR=; return 0; } ;;
      error) (($1 != _bridge_number)) || { _bridge_remote "$_bridge_body"; return; } ;;
      *) ((_bridge_number <= _bridge_served)) || { _bridge_served=$_bridge_number; _bridge_serve; } ;;
    esac
  done
  _bridge_open=
  (($1 == 0)) || _bridge_fault -32003 Cancelled 'the turn is over'
}
_bridge_request() { # METHOD PARAMS -> REPLY; or status 70 and BRIDGE_ERROR
  [[ $_bridge_open ]] || { _bridge_fault -32003 Cancelled 'no turn is open'; return; }
  _bridge_relay
  local _bridge_mine=${EPOCHREALTIME//[!0-9]/} # the clock grows in a subshell too, where a counter would be lost
  ((_bridge_mine > _bridge_id)) || _bridge_mine=$((_bridge_id + 1))
  _bridge_id=$_bridge_mine
  _bridge_send "{\"jsonrpc\":\"2.0\",\"id\":$_bridge_mine,\"method\":\"$1\",\"params\":$2}"
  _bridge_wait "$_bridge_mine"
}
_bridge_serve() {
  local _bridge_request=$_bridge_number _bridge_params=$_bridge_body _bridge_value=$_bridge_last _bridge_outcome=error REPLY=null
  local _bridge_found= _bridge_result=() _bridge_trace=() _bridge_said= _bridge_raised= _bridge_invalid= _bridge_cancelled=
  local BRIDGE_ID= BRIDGE_TOPIC= BRIDGE_TIME= BRIDGE_ATTEMPT= BRIDGE_KEY= BRIDGE_EVENTS=() REPLY_KEYS=() REPLY_VALUES=()
  local _bridge_dropped= BRIDGE_ERROR= BRIDGE_ERROR_KIND= BRIDGE_ERROR_MESSAGE=
  _bridge_last=
  case $_bridge_method in # from here to the author's code nothing runs under `||` or `if`, where Bash has no ERR trap
    initialize | load | event | events | filter | call | shutdown) "_bridge_on_$_bridge_method" ;;
    *) _bridge_error -32601 NotFound "no method \`$_bridge_method\`" ;;
  esac
  (($? != 0)) || _bridge_outcome=result
  _bridge_send "{\"jsonrpc\":\"2.0\",\"id\":$_bridge_request,\"$_bridge_outcome\":$REPLY}"
}

# ---- One function for each request: _bridge_params, _bridge_value -> REPLY, the result; or status 1 and the error object

_bridge_on_initialize() {
  BRIDGE_CONFIG=$_bridge_value
  REPLY="{\"bridge\":\"1\",\"language\":\"bash\",\"interpreter\":\"bash $BASH_VERSION\",\"features\":[]}"
}
_bridge_on_load() {
  local _bridge_path= _bridge_cells _bridge_name _bridge_file
  _bridge_functions=() _bridge_handlers=() _bridge_finals=() _bridge_exports=() _bridge_docs=() _bridge_errexit=
  bridge_get "$_bridge_params" path && [[ $REPLY != null ]] && bridge_text "$REPLY" && _bridge_path=$REPLY
  bridge_split "$_bridge_value"; _bridge_cells=("${REPLY_VALUES[@]}")
  for _bridge_name in "${_bridge_cells[@]}"; do
    _bridge_cell "$_bridge_name"
    "$BASH" -n "$_bridge_file" 2>&204 || { # a syntax error: nothing of the cell has run
      mapfile -t _bridge_trace <"$_bridge_folder/stderr"; _bridge_relay
      _bridge_trace=(0 "${_bridge_trace[@]//"$_bridge_file"/"$_bridge_name"}"); _bridge_raised=${_bridge_trace[1]}
      _bridge_raise 2; return; }
    _bridge_run source "$_bridge_file"; _bridge_answer $? || return
  done
  for _bridge_name in "${_bridge_functions[@]}" "${_bridge_exports[@]}" "${_bridge_finals[@]}"; do
    type -t -- "$_bridge_name" >/dev/null || { _bridge_raised="no function \`$_bridge_name\`"; _bridge_raise 127; return; }
  done
  for _bridge_name in "${!_bridge_exports[@]}"; do
    bridge_string "${_bridge_docs[${_bridge_exports[$_bridge_name]}]-}"
    _bridge_register "${_bridge_exports[$_bridge_name]}" export name "$_bridge_name" doc "$REPLY"
  done
  bridge_array "${_bridge_handlers[@]}"; REPLY="{\"handlers\":$REPLY,\"async\":false}"
}
_bridge_cell() { # CELL -> _bridge_name; _bridge_file: the entry file, which BASH_SOURCE then names, or a copy; _bridge_docs
  local source line doc= disk= IFS=
  bridge_get "$1" source; bridge_text "$REPLY"; source=$REPLY
  bridge_get "$1" name; bridge_text "$REPLY"; _bridge_name=$REPLY _bridge_file=$_bridge_path
  [[ ! -r $_bridge_path ]] || builtin read -r -d '' disk <"$_bridge_path"
  [[ $disk && $disk == "$source" ]] || { _bridge_file=$_bridge_folder/${_bridge_name//\//_}; printf %s "$source" >|"$_bridge_file"; }
  while builtin read -r line; do # the comment above a function is its documentation
    if [[ $line == '#'* ]]; then line=${line#'#'} doc+=${doc:+$'\n'}${line# }; continue; fi
    [[ $line =~ ^(function[[:space:]]+)?([^[:space:]\(]+)[[:space:]]*(\(\)|\{) ]] && _bridge_docs[${BASH_REMATCH[2]}]=$doc
    doc=
  done <<<"$source"
}
_bridge_register() { # FUNCTION KIND FIELD TEXT FIELD JSON
  local id=$((${#_bridge_handlers[@]} + 1)) text name=
  _bridge_functions[id]=$1; bridge_string "$4"; text=$REPLY
  [[ $2 == export ]] || { bridge_string "$1"; name=",\"name\":$REPLY"; }
  _bridge_handlers+=("{\"id\":$id,\"kind\":\"$2\",\"$3\":$text$name,\"$5\":$6}")
}
_bridge_find() { # the handler's number, first in the params -> _bridge_found; an event's fields -> BRIDGE_*
  local IFS=\" - field
  field=${_bridge_params:11} _bridge_found=${_bridge_functions[${field%%[,\}]*}]-}
  [[ $_bridge_found ]] || { _bridge_error -32601 NotFound 'no such handler'; return; }
  if [[ $_bridge_params == *\\* ]]; then
    for field in id topic time attempt key; do
      bridge_get "$_bridge_params" $field; bridge_text "${REPLY/#null/\"\"}"; printf -v "BRIDGE_${field^^}" %s "$REPLY"
    done
  elif [[ $_bridge_method != events ]]; then
    set -f; field=($_bridge_params) # {"handler":1,"id":"..","topic":"..","time":"..","attempt":1,"key":null,"chain":[".."]}
    BRIDGE_ID=${field[5]} BRIDGE_TOPIC=${field[9]} BRIDGE_TIME=${field[13]} BRIDGE_ATTEMPT=${field[16]//[:,]/}
    [[ ${field[18]} != : ]] || BRIDGE_KEY=${field[19]}
  fi
}
_bridge_on_event() { _bridge_find || return; _bridge_run "$_bridge_found" "$_bridge_value"; _bridge_answer $?; }
_bridge_on_filter() { # the answer is the event as the filter left it
  _bridge_on_event || return
  [[ ! $_bridge_dropped ]] || { REPLY=null; return; }
  bridge_string "$BRIDGE_KEY"; [[ $BRIDGE_KEY ]] || REPLY=null
  _bridge_value=$REPLY,\"data\":${_bridge_result[0]-$_bridge_value}
  bridge_string "$BRIDGE_TOPIC"; REPLY="{\"topic\":$REPLY,\"key\":$_bridge_value}"
}
