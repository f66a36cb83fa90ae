# Connections inside the job in each state that one side can leave them in, with data on their way.
import os, socket, time

listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(8)


def pair():
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    return client, server


whole, half, ended = pair(), pair(), pair()
whole[0].sendall(b'on its way')
half[0].sendall(b'last words')
half[0].shutdown(socket.SHUT_WR)
ended[0].sendall(b'gone')
ended[0].close()
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.05)


def read(end):
    got = b''
    while True:
        piece = end.recv(4096)
        if not piece:
            return got.decode()
        got += piece


print(whole[1].recv(4096).decode(), flush=True)
print(read(half[1]), flush=True)
half[1].sendall(b'answer')
half[1].close()
print(read(half[0]), flush=True)
print(read(ended[1]), flush=True)
