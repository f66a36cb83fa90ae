"""A database in WAL mode, with a transaction open at any moment; the journal's shared memory is a mapped file."""
import hashlib
import sqlite3
import time

database = sqlite3.connect("data.db", isolation_level=None)
print(database.execute("pragma journal_mode = wal").fetchone()[0])
database.execute("create table numbers (n integer primary key, text)")
for n in range(60):
    database.execute("begin")
    for k in range(50):
        database.execute("insert into numbers values (?, ?)", (n * 50 + k, hashlib.sha256(str(n * k).encode()).hexdigest()))
    time.sleep(0.1)
    database.execute("commit" if n % 10 else "rollback")
    print("step", n, *database.execute("select count(*), sum(n), max(text) from numbers").fetchone(), flush=True)
print(database.execute("pragma integrity_check").fetchone()[0])
database.execute("pragma wal_checkpoint(truncate)")
database.close()
