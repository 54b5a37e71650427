# Events that are well, fail at first, never end, and take 20 ms.
import os, time

@bridge.on("n")
def one(event):
    return event.data

@bridge.on("flaky")
def flaky(event):
    if event.attempt == 1:
        raise ValueError("the first attempt fails")
    return event.data

@bridge.on("hang")
def hang(event):
    while True:
        pass

@bridge.on("slow")
def slow(event):
    time.sleep(0.02)
    return event.data
