//! What the pool can see of a running job: `Chirp*` attributes, spoken over the starter's chirp socket directly,
//! because `condor_chirp` is not where jobs run. `condor_q -af ChirpCriuState` then answers "is my job safe".
//!
//! The protocol, as HTCondor's chirp client and starter speak it: it consists of lines. A request is words separated by
//! blanks, with `\` before a blank, tab, line end or `\` inside a word. The answer is a number, negative for an error.
//! The socket's address and cookie are in `.chirp.config`: host, port, cookie.
//!
//! Nothing waits for it: a thread does the talking, and a job without it runs as well.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

/// A starter answers in milliseconds; one that is busy with a transfer answers later, and we don't wait for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Characters; the starter refuses longer values.
const VALUE_MAX: usize = 993;

/// An attribute of ours and its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// running, saving, restoring, saved, ended
    State(&'static str),
    /// The last committed generation.
    Generation(u64),
    /// Its size.
    CheckpointBytes(u64),
    /// How long the payload was stopped for it.
    FrozenSeconds(f64),
    /// When it was committed, in seconds since the epoch.
    LastCheckpointTime(u64),
    /// The level that the checkpoint needs of a processor, as HTCondor's `Microarch` spells it.
    Microarch(String),
    /// The machine that could not restore the checkpoint, so that `Requirements` can keep the job away from it.
    RefusedBy(String),
    /// How many hosts in a row have tried to restore the newest checkpoint and failed, see
    /// [`super::job::FAILED_RESTORES`].
    FailedRestores(i64),
    /// What the user should know.
    Warning(String),
    /// In which attempt the payload ended by itself, see [`super::job::ENDED_ATTEMPT`].
    EndedAttempt(i64),
}

impl Attribute {
    /// Name and ClassAd expression.
    fn pair(&self) -> (&'static str, String) {
        match self {
            Attribute::State(state) => ("ChirpCriuState", quoted(state)),
            Attribute::Generation(number) => ("ChirpCriuGeneration", number.to_string()),
            Attribute::CheckpointBytes(bytes) => ("ChirpCriuCheckpointBytes", bytes.to_string()),
            Attribute::FrozenSeconds(seconds) => ("ChirpCriuFrozenSeconds", format!("{seconds:.3}")),
            Attribute::LastCheckpointTime(time) => ("ChirpCriuLastCheckpointTime", time.to_string()),
            Attribute::Microarch(level) => ("ChirpCriuMicroarch", quoted(level)),
            Attribute::RefusedBy(machine) => (super::job::REFUSED_BY, quoted(machine)),
            Attribute::FailedRestores(count) => (super::job::FAILED_RESTORES, count.to_string()),
            Attribute::Warning(text) => ("ChirpCriuWarning", quoted(text)),
            Attribute::EndedAttempt(attempt) => (super::job::ENDED_ATTEMPT, attempt.to_string()),
        }
    }
}

/// A string literal that the starter accepts.
fn quoted(text: &str) -> String {
    super::classad::quoted(text, VALUE_MAX)
}

enum Said {
    Attribute(Attribute),
    UserLog(String),
}

/// The way to the pool; without a starter it leads nowhere.
#[derive(Debug)]
pub struct Chirp {
    sender: Option<Sender<Said>>,
    done: Receiver<()>,
}

impl Chirp {
    /// Reads `.chirp.config` and begins. `user_log`: whether the job may write lines to its user log (`want_io_proxy`).
    pub fn start(config: Option<PathBuf>, user_log: bool) -> Chirp {
        let (done_sender, done) = crossbeam_channel::bounded(1);
        let Some(config) = config.filter(|path| path.is_file()) else { return Chirp { sender: None, done } };
        let (sender, said) = crossbeam_channel::unbounded::<Said>();
        let talk = move || {
            let mut connection = None;
            for said in said {
                let words = match said {
                    Said::Attribute(attribute) => {
                        let (name, value) = attribute.pair();
                        vec!["set_job_attr_delayed".to_owned(), name.to_owned(), value]
                    }
                    Said::UserLog(line) if user_log => vec!["ulog".to_owned(), line],
                    Said::UserLog(_) => continue,
                };
                if let Err(error) = say(&mut connection, &config, &words) {
                    tracing::debug!("chirp: {error}");
                    connection = None;
                }
            }
            let _ = done_sender.send(());
        };
        let thread = std::thread::Builder::new().name("chirp".into()).stack_size(256 * 1024).spawn(talk);
        Chirp { sender: thread.is_ok().then_some(sender), done }
    }

    /// Tells the pool.
    pub fn tell(&self, attribute: Attribute) {
        self.send(Said::Attribute(attribute));
    }

    /// A line for the user log.
    pub fn log(&self, line: String) {
        self.send(Said::UserLog(line));
    }

    fn send(&self, said: Said) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(said);
        }
    }

    /// Lets what has been told be said, for a short time.
    pub fn finish(&mut self) {
        if self.sender.take().is_some() {
            let _ = self.done.recv_timeout(PATIENCE);
        }
    }
}

/// One request; connects first if need be.
fn say(connection: &mut Option<BufReader<TcpStream>>, config: &Path, words: &[String]) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(connect(config)?),
    };
    request(stream, words)
}

fn connect(config: &Path) -> io::Result<BufReader<TcpStream>> {
    let text = std::fs::read_to_string(config)?;
    let mut words = text.split_whitespace();
    let (Some(host), Some(port), Some(cookie)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::other(format!("{} is not understood", config.display())));
    };
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let address = (host, port).to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    request(&mut stream, &["cookie".to_owned(), cookie.to_owned()])?;
    Ok(stream)
}

fn request(stream: &mut BufReader<TcpStream>, words: &[String]) -> io::Result<()> {
    let line = words.iter().map(|word| escaped(word)).collect::<Vec<_>>().join(" ") + "\n";
    stream.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    match answer.trim().parse::<i64>() {
        Ok(code) if code >= 0 => Ok(()),
        Ok(code) => Err(io::Error::other(format!("the starter answers {code} to {}", words[0]))),
        Err(_) => Err(io::Error::other(format!("the starter answers {answer:?} to {}", words[0]))),
    }
}

fn escaped(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for c in word.chars() {
        if matches!(c, ' ' | '\t' | '\n' | '\r' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_starter_hears_the_cookie_and_then_the_attributes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join(".chirp.config");
        std::fs::write(&config, format!("127.0.0.1 {port} secret\n")).unwrap();
        let starter = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut heard = Vec::new();
            for _ in 0..3 {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                heard.push(line.trim_end().to_owned());
                stream.get_mut().write_all(b"0\n").unwrap();
            }
            heard
        });
        let mut chirp = Chirp::start(Some(config), false);
        chirp.tell(Attribute::Generation(3));
        chirp.log("not allowed".into());
        chirp.tell(Attribute::Warning("say \"when\"".into()));
        chirp.finish();
        let heard = starter.join().unwrap();
        assert_eq!(
            heard,
            [
                "cookie secret",
                "set_job_attr_delayed ChirpCriuGeneration 3",
                "set_job_attr_delayed ChirpCriuWarning \"say\\ \\\\\"when\\\\\"\""
            ]
        );
    }

    #[test]
    fn values_stay_below_the_starter_s_limit() {
        assert!(quoted(&"\\".repeat(5000)).len() <= VALUE_MAX);
        assert_eq!(quoted("a\nb"), "\"a b\"");
    }
}
