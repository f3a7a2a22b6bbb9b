#!/usr/bin/env python3
"""Fills Redis with real text: redis_load.py SOCKET MIB FILE_OR_DIRECTORY...

Values are 4000 bytes of the files in turn, keys key:000000000000 and on, as redis-benchmark draws them. Prints how many."""
import os
import socket
import sys

VALUE, BATCH = 4000, 64


def chunks(paths):
    for path in paths:
        for directory, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = os.path.join(directory, name)
                if os.path.islink(file) or not os.path.isfile(file):
                    continue
                with open(file, "rb") as f:
                    while len(data := f.read(VALUE)) == VALUE:
                        yield data


def main():
    path, wanted = sys.argv[1], int(sys.argv[2]) * (1 << 20) // VALUE
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(300)
        s.connect(path)
        answers = s.makefile("rb")
        count = sent = 0
        for data in chunks(sys.argv[3:]):
            key = b"key:%012d" % count
            s.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(data), data))
            count += 1
            while count - sent >= BATCH or (count == wanted and sent < count):
                if answers.readline() != b"+OK\r\n":
                    sys.exit("redis_load: Redis refused a value")
                sent += 1
            if count == wanted:
                break
    if count < wanted:
        sys.exit(f"redis_load: only {count} values of text here, {wanted} wanted")
    print(count)


if __name__ == "__main__":
    main()
