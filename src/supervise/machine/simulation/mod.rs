//! The machine against a simulated world, driven by a seed: HTCondor's starter, criu, the sandbox, the disk, the
//! readers of the streams, and the clock. Everything can be late, fail, hang or die at any moment. What must hold is in
//! [`rules`], each rule with its name. A world that breaks one is shrunk to the few choices that matter, and printed.

mod choices;
mod deeds;
mod rules;
mod world;

use choices::Choices;
use world::World;

/// A fault that is planted: the three hangs of version 0.1.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A save waits for the reader of stdout, however long that takes.
    WaitForReader,
    /// The payload's end while its checkpoint is packed is dropped.
    DropTheEnd,
    /// The relays are not told of the end, and are waited for.
    NoDrain,
}

/// How often something has to be tried.
fn transitions() -> u64 {
    const ORDINARY: u64 = 1_000_000;
    if std::env::var_os("CONDOR_CRIU_LONG").is_some() { ORDINARY * 100 } else { ORDINARY }
}

/// The fewest and smallest choices that still break a rule.
fn shrink(mut made: Vec<u32>, mutant: Option<Mutant>) -> String {
    let breaks = |made: &[u32]| World::new(Choices::again(made.to_vec()), mutant).run().err();
    for _ in 0..4 {
        let mut length = made.len();
        while length > 1 {
            let shorter = &made[..length / 2];
            if breaks(shorter).is_some() {
                made.truncate(length / 2);
            }
            length /= 2;
        }
        for at in 0..made.len() {
            let before = made[at];
            for smaller in [0, before / 2] {
                if made[at] != 0 && smaller < made[at] {
                    let kept = std::mem::replace(&mut made[at], smaller);
                    if breaks(&made).is_none() {
                        made[at] = kept;
                    }
                }
            }
        }
    }
    format!("{}\n  choices {made:?}", breaks(&made).unwrap_or_default())
}

/// Runs worlds until something breaks or enough has been tried: what broke, or how many transitions and worlds.
fn explore(first: u64, enough: u64, mutant: Option<Mutant>) -> Result<(u64, u64), String> {
    let (mut transitions, mut seed) = (0, first);
    while transitions < enough {
        let mut world = World::new(Choices::of(seed), mutant);
        if world.run().is_err() {
            return Err(format!("seed {seed}: {}", shrink(world.choices.made, mutant)));
        }
        transitions += world.transitions;
        seed = seed.wrapping_add(0x1_0000_0001);
    }
    Ok((transitions, (seed.wrapping_sub(first)) / 0x1_0000_0001))
}

#[test]
fn every_rule_holds_in_a_million_transitions() {
    let seed = std::env::var("CONDOR_CRIU_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64));
    match explore(seed, transitions(), None) {
        Ok((transitions, worlds)) => println!("{transitions} transitions in {worlds} worlds from seed {seed}"),
        Err(broken) => panic!("{broken}\nrepeat it with CONDOR_CRIU_SEED={seed}"),
    }
}

#[test]
fn the_three_hangs_of_old_are_found_again() {
    for (mutant, rule) in [
        (Mutant::WaitForReader, "every vacate is answered in time"),
        (Mutant::DropTheEnd, "every run ends"),
        (Mutant::NoDrain, "every run ends"),
    ] {
        let found = match explore(1, 1_000_000, Some(mutant)) {
            Err(found) => found,
            Ok(tried) => panic!("{mutant:?} was not found: {tried:?}"),
        };
        assert!(found.contains("every "), "{mutant:?}: {found}");
        println!("{mutant:?} ({rule}): {found}");
    }
}
