import os

log = open(bridge.config["log"], "a", buffering=1)


@bridge.on("chaos")
def chaos(event):
    log.write("%d\n" % event.data["n"])
    if event.attempt == 1 or event.data["always"]:
        misbehave(event.data["what"])
    log.write("%d done\n" % event.data["n"])
    return event.data["n"]


def misbehave(what):
    if what == "exit":
        os._exit(1)
    if what == "loop":
        while True:
            pass
    if what == "flood":
        for _ in range(20000):
            print("x" * 100)
    if what == "hog":
        return [bytes([n % 256]) * (1 << 20) for n in range(4000)]
    if what == "raise":
        raise ValueError(what)
