bridge_export hello hello
hello() {
  if then
}
