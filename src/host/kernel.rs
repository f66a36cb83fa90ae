//! What a kernel has, by its number.

use crate::criu::features::Feature;

/// Whether a kernel does not have it. One whose number cannot be read is taken for a new one: CRIU will say it.
pub fn lacks(release: &str, feature: Feature) -> bool {
    match feature.since() {
        Some(since) => number(release).is_some_and(|here| here < since),
        None => true,
    }
}

/// `6.12.107+deb13-amd64` → (6, 12)
fn number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(number("6.12.107+deb13-amd64"), Some((6, 12)));
        assert!(lacks("6.1.0-9-amd64", Feature::DroppableMemory) && !lacks("6.11.2", Feature::DroppableMemory));
        assert!(lacks("6.12.107+deb13-amd64", Feature::StackGuards) && !lacks("6.13.0", Feature::StackGuards));
        assert!(!lacks("unknown", Feature::GuardPages) && lacks("7.0.0", Feature::Unknown));
    }
}
