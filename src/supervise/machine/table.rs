//! Every state with every input, in one table: `table.txt` beside this file. A change of the machine changes the table,
//! and whoever reads the change sees what it means. `CONDOR_CRIU_BLESS=1 cargo test --lib machine` writes it anew.

use std::fmt::Write;
use std::time::Duration;

use super::*;
use crate::exit::{Ended, Failure};

const NOW: Moment = Duration::from_secs(100);
const LATER: Moment = Duration::from_secs(200);
const EARLIER: Moment = Duration::from_secs(50);

fn failure() -> Failure {
    Failure::start("what", "why")
}

fn states() -> Vec<State> {
    let (reason, tries) = (Reason::Interval, 0);
    let packing = |tree| State::Packing { reason, tree, deadline: EARLIER };
    let dumping = |then| State::Dumping { reason, tries, patience: Duration::from_secs(20), then, deadline: EARLIER };
    let releasing = |outcome, killed| State::Releasing { outcome, killed, deadline: EARLIER };
    let failed = |passes| Outcome::Failed { reason, passes };
    vec![
        State::Starting { wanted: false, deadline: None },
        State::Starting { wanted: true, deadline: Some(EARLIER) },
        State::Unpacking { wanted: false, deadline: Some(EARLIER) },
        State::Restoring { wanted: false, deadline: EARLIER },
        State::Running { tries },
        State::Quieting { reason, tries, deadline: EARLIER },
        State::Preparing { reason, tries },
        dumping(Patience::Waiting),
        dumping(Patience::GivenUp),
        dumping(Patience::Killed),
        packing(Tree::Held),
        packing(Tree::Loose),
        packing(Tree::Ended(Ended::Signaled(9))),
        packing(Tree::Gone),
        releasing(Outcome::Committed, false),
        releasing(failed(None), true),
        releasing(failed(Some(0)), false),
        releasing(failed(Some(SOON_TRIES)), false),
        State::SavingEnd { ended: Ended::Exited(0), deadline: LATER },
        State::Draining { end: End::Payload(Ended::Exited(0)), deadline: LATER },
        State::Draining { end: End::StarterGone, deadline: EARLIER },
        State::Over,
    ]
}

fn inputs() -> Vec<Input> {
    vec![
        Input::Vacate(15),
        Input::Checkpoint { promised: false },
        Input::Checkpoint { promised: true },
        Input::Signal(10),
        Input::Spawned,
        Input::NotSpawned(failure()),
        Input::Unpacked(Unpacked::Files { patience: Duration::from_secs(20) }),
        Input::Unpacked(Unpacked::Ended(Ended::Exited(3))),
        Input::Unpacked(Unpacked::Failed(failure())),
        Input::StreamBroken,
        Input::Restored,
        Input::NotRestored(failure()),
        Input::Due(Reason::Interval),
        Input::Quiet,
        Input::DumpBegun { patience: Duration::from_secs(20) },
        Input::DumpRefused,
        Input::NoTime,
        Input::Held,
        Input::Unfit { passes: true },
        Input::Unfit { passes: false },
        Input::DumpEnded(DumpEnd::PutBack { passes: true }),
        Input::DumpEnded(DumpEnd::PutBack { passes: false }),
        Input::DumpEnded(DumpEnd::Harmed(Ended::Signaled(9))),
        Input::Packed(true),
        Input::Packed(false),
        Input::PayloadEnded(Ended::Exited(0)),
        Input::PayloadEnded(Ended::Exited(85)),
        Input::WrongProcessor(failure()),
        Input::SandboxGone,
        Input::StarterGone,
        Input::StreamsMoved,
        Input::StreamsDone,
        Input::Tick,
    ]
}

fn machine(state: State, leave: Leave, code: Option<u8>) -> Machine {
    Machine { state, leave, promised: false, saved: true, failures: 0, rules: Rules { code }, mutant: None }
}

#[test]
fn every_state_answers_every_input() {
    let mut table =
        String::from("Each state with each input that changes something: the actions, and the state that follows.\n");
    for state in states() {
        writeln!(table, "\n{state:?}").unwrap();
        for input in inputs() {
            let mut machine = machine(state.clone(), Leave::No, None);
            let actions = machine.next(NOW, input.clone());
            if actions.is_empty() && machine.state == state {
                continue;
            }
            writeln!(table, "    {input:?}\n        {actions:?}\n        {:?}", machine.state).unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/supervise/machine/table.txt");
    if std::env::var_os("CONDOR_CRIU_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert!(
        table == std::fs::read_to_string(path).unwrap_or_default(),
        "the machine differs from {path}: see this file's head"
    );
}

#[test]
fn what_holds_for_every_pair() {
    for (state, input) in
        states().into_iter().flat_map(|state| inputs().into_iter().map(move |input| (state.clone(), input)))
    {
        for leave in [Leave::No, Leave::Asked(15), Leave::PassedOn(15)] {
            for code in [None, Some(85)] {
                let mut machine = machine(state.clone(), leave, code);
                let actions = machine.next(NOW, input.clone());
                let what = format!("{input:?} in {state:?} with {leave:?}, {code:?}: {actions:?}, {:?}", machine.state);
                let ends = actions.iter().filter(|action| matches!(action, Action::End(_))).count();
                assert_eq!(ends, usize::from(matches!(actions.last(), Some(Action::End(_)))), "{what}");
                assert_eq!(ends > 0, machine.state == State::Over && state != State::Over, "{what}");
                let draining = matches!(state, State::Draining { .. });
                assert!(!draining || !matches!(machine.state, State::Running { .. }), "{what}");
                assert!(state != State::Over || actions.is_empty(), "{what}");
            }
        }
    }
}
