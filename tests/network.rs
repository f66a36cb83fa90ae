//! A private network with the real criu, on this machine: connections inside the job are carried.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use common::local::{Bench, FIRST_USER, SECOND_USER, assert_code};
use nix::sys::signal::Signal;

#[test]
fn connections_that_one_side_has_closed_are_carried_too() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    first.write("half.py", include_str!("payloads/half.py"));
    let words = ["--network", "private", "--", "python3", "half.py"];
    let mut job = first.start(&words);
    job.until_output("ready").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    let second = bench.host("second", SECOND_USER);
    second.write("half.py", include_str!("payloads/half.py"));
    first.carry_to(&second, &[]);
    let mut job = second.start(&words);
    job.until("condor-criu.log", "the payload runs again");
    second.write("go", "");
    assert_code(&second, job.end(), 0);
    assert_eq!(second.stdout(), "ready\non its way\nlast words\nanswer\ngone\n", "{}", second.stderr());
}

#[test]
fn a_private_network_carries_the_payload_s_own_connections() {
    let bench = Bench::new();
    let first = bench.host("first", FIRST_USER);
    let script = "import socket, os, time\n\
        server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()\n\
        client = socket.create_connection(server.getsockname()); peer, _ = server.accept()\n\
        for i in range(20):\n    client.sendall(b'%02d' % i); print('line', peer.recv(2).decode(), flush=True); time.sleep(0.1)\n";
    let words = ["--network", "private", "--", "python3", "-c", script];
    let mut job = first.start(&words);
    job.until_output("line 05").signal(Signal::SIGTERM);
    assert_code(&first, job.end(), 85);
    let second = bench.host("second", SECOND_USER);
    first.carry_to(&second, &[]);
    assert_code(&second, second.run(&words), 0);
    assert_eq!(second.stdout(), (0..20).map(|i| format!("line {i:02}\n")).collect::<String>());
}
