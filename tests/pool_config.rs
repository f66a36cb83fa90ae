//! The drop-in files on the real pool: a user's submit file and one line more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on stops")]

mod common;

use common::count::PATIENCE;
use common::job::{Condition, File, Job};
use common::pool::{Host, Pool, Series, with_both_series};

with_both_series!(
    a_user_writes_one_line,
    several_jobs_and_a_dag,
    what_cannot_be_checkpointed_is_refused,
    execution_points_advertise
);

const ACCESS_POINT: &str = include_str!("../condor-config/access-point.conf");
const EXECUTION_POINT: &str = include_str!("../condor-config/execution-point.conf");

/// Where the pool has them.
const PLACES: &str = "CONDOR_CRIU = /opt/condor-criu/condor-criu\n";

/// A pool with the drop-in files. Its execution points know their criu by the host's settings file.
fn pool_with_criu(series: Series) -> Pool {
    let pool = Pool::up(series);
    for host in [Host::Ep1, Host::Ep2] {
        let script = "mkdir -p /etc/condor-criu && echo 'criu = \"/opt/criu\"' >/etc/condor-criu/config.toml";
        pool.ask(host, "root", &["sh", "-c", script]);
    }
    pool.configure(Host::Ap, &format!("{ACCESS_POINT}\n{PLACES}"));
    pool
}

/// Counts to 60, says what it was called with, and is put to 3. At 30 it waits until it has been moved, however busy
/// the machine is.
const PROGRAM: &str = "#!/bin/sh\necho \"called $*\"\nn=0\nwhile [ $n -lt 60 ]; do\nsleep 0.1; n=$((n + 1)); echo \"line $n\"\n\
    while [ $n = 30 ] && ! grep -q 'runs again' condor-criu.log; do sleep 0.1; done\ndone\nexit 3\n";

const LINES: &str = "job_machine_attrs = Machine\nrequirements = TARGET.Machine =!= MY.MachineAttrMachine0\n";

/// What a run prints.
fn expected(arguments: &str) -> String {
    let lines: String = (1..=60).map(|number| format!("line {number}\n")).collect();
    format!("called {arguments}\n{lines}")
}

#[track_caller]
fn has_survived(job: &Job<'_>, arguments: &str) {
    job.wait_for(Condition::Done, PATIENCE);
    let log = job.read("condor-criu.log");
    assert_eq!(job.read("job.out"), expected(arguments), "{log}");
    assert_eq!(job.history().exit_code, Some(3), "{log}");
    assert!(log.contains("committed") && log.contains("runs again"), "{log}");
}

fn a_user_writes_one_line(series: Series) {
    let pool = &pool_with_criu(series);
    for host in [Host::Ep1, Host::Ep2] {
        let script =
            format!("mkdir -p /opt/site && cat >/opt/site/tool <<'END'\n{PROGRAM}END\nchmod 755 /opt/site/tool");
        pool.ask(host, "root", &["sh", "-c", &script]);
    }
    let submit = |lines: &str| pool.submit(&format!("{LINES}{lines}\n"), &[File::program("sim", PROGRAM)]);
    let jobs = [
        (submit("executable = sim\nWantCriu = true"), ""),
        (submit("executable = sim\narguments = one two\n+WantCriu = true"), "one two"),
        (submit("executable = sim\narguments = \"one 'two three'\"\nuse template : CRIU"), "one two three"),
        (submit("executable = /opt/site/tool\ntransfer_executable = false\narguments = x\nWantCriu = true"), "x"),
    ];
    for (job, _) in &jobs {
        job.wait_for(Condition::Scratch("_condor_stdout", "line 5\n".into()), PATIENCE);
        job.vacate();
    }
    for (job, arguments) in &jobs {
        has_survived(job, arguments);
        let payload = job.history().ad["CriuPayload"].as_str().unwrap_or_default().to_owned();
        assert!(payload.ends_with("/sim") || payload == "/opt/site/tool", "{payload}");
    }
}

fn several_jobs_and_a_dag(series: Series) {
    let pool = &pool_with_criu(series);
    let folder = pool.shared_folder().join("several");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("sim", PROGRAM);
    let common = format!(
        "{LINES}executable = sim\nshould_transfer_files = YES\nrequest_memory = 64\nrequest_disk = 64M\nWantCriu = true\n"
    );
    // A job's own folder, for each has a log of condor-criu.
    let one = "output = out\nerror = err\n";
    write(
        "five.sub",
        &format!(
            "{common}{one}arguments = number $(Process)\nlog = five.log\ninitialdir = five$(Process)\n\
        transfer_input_files = ../list\nmax_materialize = 3\nqueue 5\n"
        ),
    );
    write(
        "from.sub",
        &format!(
            "{common}{one}arguments = $(x) $(y)\nlog = from.log\ninitialdir = from$(x)\n\
        queue x, y from list\n"
        ),
    );
    write("list", "a 1\nb 2\n");
    // Late materialisation where each row has its own program and its own files.
    let each = common.replace("executable = sim", "executable = $(program)");
    write(
        "rows.sub",
        &format!(
            "{each}{one}arguments = $(data)\ntransfer_input_files = ../$(data)\ntransfer_output_files = $(data).out\n\
             log = rows.log\ninitialdir = $(place)\nmax_idle = 2\nqueue place, program, data from rows\n"
        ),
    );
    let reading = PROGRAM.replace("called $*\"", "called $*\"; cat \"$1\"; echo more >\"$1.out\"");
    write("sim.b", &reading);
    write("sim.c", &reading.replace("called", "called c"));
    write("rows", "row0 sim.b data0\nrow1 sim.b data1\nrow2 sim.c data2\n");
    for data in ["data0", "data1", "data2"] {
        write(data, &format!("{data}\n"));
    }
    write("node.sub", &format!("{common}{one}arguments = $(NAME)\nlog = node.log\ninitialdir = dag\nqueue\n"));
    write("job.dag", "JOB A node.sub\nVARS A NAME=\"alpha\"\n");
    let jobs = [
        ("five0", "number 0"),
        ("five1", "number 1"),
        ("five2", "number 2"),
        ("five3", "number 3"),
        ("five4", "number 4"),
        ("froma", "a 1"),
        ("fromb", "b 2"),
        ("row0", "data0\ndata0"),
        ("row1", "data1\ndata1"),
        ("row2", "c data2\ndata2"),
        ("dag", "alpha"),
    ];
    for (place, _) in jobs {
        std::fs::create_dir(folder.join(place)).unwrap();
    }
    pool.ask(Host::Ap, "root", &["sh", "-c", "chmod 755 /shared/several/sim* && chown -R alice: /shared/several"]);
    let script = "set -e; cd /shared/several; for name in five from rows; do condor_submit $name.sub; done; condor_submit_dag job.dag";
    pool.ask(Host::Ap, "alice", &["sh", "-c", script]);
    let read = |place: &str, name: &str| std::fs::read_to_string(folder.join(place).join(name)).unwrap_or_default();
    let deadline = std::time::Instant::now() + PATIENCE;
    // Each of them once or twice, when it has run for a while: one that was taken away before it ran has nothing to go
    // on from.
    let young = "WantCriu =?= true && JobStatus == 2 && NumJobStarts < 3 && time() - JobCurrentStartDate > 1";
    while !jobs.iter().all(|(place, _)| read(place, "out").contains("line 60\n")) {
        pool.exec(Host::Ap, "root", &["condor_vacate_job", "-constraint", young]);
        assert!(
            std::time::Instant::now() < deadline,
            "{}",
            pool.ask(Host::Ap, "root", &["condor_q", "-all", "-nobatch"])
        );
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    for (place, arguments) in jobs {
        let log = read(place, "condor-criu.log");
        assert_eq!(read(place, "out"), expected(arguments), "{place}: {log}");
        assert!(log.contains("runs again"), "{place}: {log}");
    }
    for number in 0..3 {
        assert_eq!(read(&format!("row{number}"), &format!("data{number}.out")), "more\n");
    }
}

fn what_cannot_be_checkpointed_is_refused(series: Series) {
    let pool = &pool_with_criu(series);
    let script = |lines: &str| {
        format!(
            "cd /tmp && printf '#!/bin/sh\\n' >sim && chmod 755 sim && printf '%b' '{lines}\\nqueue\\n' >job.sub && condor_submit job.sub"
        )
    };
    for (lines, why) in [
        (
            "executable = sim\\nuniverse = scheduler\\n+WantCriu = true",
            "only jobs of the vanilla and the container universe",
        ),
        ("universe = container\\ncontainer_image = docker://debian\\n+WantCriu = true", "name it as executable"),
        ("executable = sim\\nshould_transfer_files = NO\\n+WantCriu = true", "a checkpoint is carried as a file"),
        ("executable = sim\\ncheckpoint_exit_code = 85\\n+WantCriu = true", "it makes its own checkpoints"),
    ] {
        let output = pool.exec(Host::Ap, "alice", &["sh", "-c", &script(lines)]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(why), "{lines}: {words}");
    }
}

fn execution_points_advertise(series: Series) {
    let pool = &pool_with_criu(series);
    for host in [Host::Ep1, Host::Ep2] {
        // A machine that is busy with other tests may need a second look.
        pool.configure(host, &format!("{EXECUTION_POINT}\n{PLACES}STARTD_CRON_CRIU_PERIOD = 5s\n"));
        let user = if host == Host::Ep1 { "root" } else { "pilot" };
        // Read by HTCondor itself, which refuses what it does not understand.
        let retirement = pool.ask(host, user, &["condor_config_val", "MAXJOBRETIREMENTTIME"]);
        assert!(retirement.contains("TARGET.WantCriu"), "{retirement}");
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let words = pool.ask(
            Host::Ap,
            "root",
            &["condor_status", "-af", "Machine", "HasCriu", "CriuMode", "CriuReason", "CriuFeatures"],
        );
        let able = words.lines().filter(|line| line.contains(" true rootless undefined ")).count();
        if able >= 2 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{words}");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
