bridge_config log; bridge_text "$REPLY"; log=$REPLY

misbehave() {
  case $1 in
    exit) exit 1 ;;
    loop) while :; do :; done ;;
    flood) for ((i = 0; i < 2000; i++)); do printf '%01000d\n' "$i"; done ;;
    hog) local hog=x; for ((i = 0; i < 33; i++)); do hog+=$hog; done ;;
    raise) bridge_fail raised ;;
  esac
}

chaos() {
  local data=$1 n what always
  bridge_get "$data" n; n=$REPLY
  bridge_get "$data" what; bridge_text "$REPLY"; what=$REPLY
  bridge_get "$data" always; always=$REPLY
  echo "$n" >>"$log"
  if [[ $BRIDGE_ATTEMPT == 1 || $always == true ]]; then misbehave "$what" || return; fi
  echo "$n done" >>"$log"
  bridge_return "$n"
}
bridge_on chaos chaos
