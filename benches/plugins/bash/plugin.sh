# What `kernelbridge bench` measures.

# work RECORD -> REPLY
work() {
  local id text value
  bridge_get "$1" id; id=$REPLY
  bridge_get "$1" text; bridge_text "$REPLY"; bridge_string "${REPLY^^}"; text=$REPLY
  bridge_get "$1" value; bridge_integer "$REPLY" || return; value=$((REPLY + 1))
  bridge_object id "$id" text "$text" value "$value"
}

unary() { work "$1" && bridge_return "$REPLY"; }
bridge_export unary unary

batch() {
  local record answers=()
  bridge_split "$1"
  for record in "${REPLY_VALUES[@]}"; do
    work "$record" || return
    answers+=("$REPLY")
  done
  bridge_array "${answers[@]}"; bridge_return "$REPLY"
}
bridge_export batch batch

bridge_on bench.one unary

many() {
  local data answers=()
  for data; do
    work "$data" || return
    answers+=("$REPLY")
  done
  bridge_return "${answers[@]}"
}
bridge_on bench.many many --batch 1000

nested() {
  local value
  work "$1" || return; local answer=$REPLY
  bridge_get "$1" value; bridge_call host.plus_one "$REPLY" || return; value=$REPLY
  local id text
  bridge_get "$answer" id; id=$REPLY
  bridge_get "$answer" text; text=$REPLY
  bridge_object id "$id" text "$text" value "$value"; bridge_return "$REPLY"
}
bridge_export nested nested

calls() {
  local count value=0
  bridge_integer "$1" && count=$REPLY || return
  for ((; count > 0; count--)); do bridge_call host.plus_one "$value" || return; value=$REPLY; done
  bridge_return "$value"
}
bridge_export calls calls

nest() {
  bridge_integer "$1" || return
  if ((REPLY <= 0)); then bridge_return 0; return; fi
  bridge_call host.nest $((REPLY - 1)) || return
  bridge_integer "$REPLY" && bridge_return $((REPLY + 1))
}
bridge_export nest nest
