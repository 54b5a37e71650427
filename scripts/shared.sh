# What the scripts that run tests share; they source it in the repository's folder.

say() { printf '==> [%4d s] %s\n' "$SECONDS" "$*" >&2; }

data="${KERNELBRIDGE_DATA:-${XDG_DATA_HOME:-$HOME/.local/share}/kernelbridge}/tests"
mkdir -p "$data"
data="$(cd "$data" && pwd)"
python="${KERNELBRIDGE_PYTHON:-python3}"

# debian PROGRAM PACKAGE: as root on Debian, install the package of a program that is not there.
debian() {
    if command -v "$1" >/dev/null || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        return
    fi
    say "apt-get install -y --no-install-recommends $2"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2 || {
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2
    }
}

# venv NAME REQUIREMENTS: a virtual environment with exactly these packages. The copy of the requirements is written
# last: without it, or when it differs, the environment is made anew. Two test runs at once do not make the same one.
venv() {
    (
        if command -v flock >/dev/null; then
            flock 9
        fi
        folder="$data/$1"
        if cmp -s "$2" "$folder/requirements.txt" && "$folder/bin/python" -c '' 2>/dev/null; then
            say "$2: already in $folder"
            exit
        fi
        say "$2: into $folder"
        rm -rf "$folder"
        "$python" -m venv "$folder"
        "$folder/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check --requirement "$2" 9>&-
        cp "$2" "$folder/requirements.txt"
    ) 9>"$data/.lock"
}
