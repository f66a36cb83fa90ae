"""A server that knows nothing of its clients: for each line "N" it answers "N N*N". Writes its port to the file that its argument names."""
import os
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            n = int(line)
            self.wfile.write(f"{n} {n * n}\n".encode())


socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer(("", 0), Handler) as server:
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    server.serve_forever()
