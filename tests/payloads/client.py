"""A client that holds one connection to a server on another host and asks it ten times a second; if the connection is lost it connects
again and asks again. client.py HOST PORT QUESTIONS"""
import socket
import sys
import time

connection = None


def ask(question):
    global connection
    if connection is None:
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60).makefile("rw")
        print("connected", file=sys.stderr, flush=True)
    connection.write(f"{question}\n")
    connection.flush()
    answer = connection.readline()
    if not answer.endswith("\n"):
        raise ConnectionError("the server has gone")
    return answer.strip()


for n in range(int(sys.argv[3])):
    while True:
        try:
            print("answer", ask(n), flush=True)
            break
        except OSError:
            connection = None
    time.sleep(0.1)
