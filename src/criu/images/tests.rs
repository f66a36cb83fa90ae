//! Images as CRIU writes them, and what must become of them.

use super::*;

fn creds(groups: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in 1..=8 {
        put_number(field, 1000, &mut out);
    }
    put_number(13, 0, &mut out);
    for gid in groups {
        put_number(14, u64::from(*gid), &mut out);
    }
    put_number(18, 1, &mut out);
    out
}

fn image(second: u32, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [COMMON.to_le_bytes(), second.to_le_bytes()].concat();
    for entry in entries {
        out.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        out.extend_from_slice(entry);
    }
    out
}

fn numbers(pairs: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    pairs.iter().for_each(|(number, value)| put_number(*number, *value, &mut out));
    out
}

#[test]
fn an_expired_periodic_timer_is_armed_again_and_others_stay() {
    let timer = |value: u64, every: u64| {
        let mut out = numbers(&[(1, 17), (2, 5)]);
        let inner = numbers(&[(1, 5), (2, 2), (4, 1), (5, 3), (6, 0), (7, 0), (8, value), (9, 0), (10, every)]);
        put_bytes(number::TIMERFD, &inner, &mut out);
        out
    };
    let rewrite = Rewrite::default();
    let before = image(FILES, &[numbers(&[(1, 1), (2, 4)]), timer(0, 50), timer(7, 50), timer(0, 0)]);
    let after = image(FILES, &[numbers(&[(1, 1), (2, 4)]), timer(50, 50), timer(7, 50), timer(0, 0)]);
    assert_eq!(rewrite.apply("files.img", &before), Ok(after));
    assert!(rewrite.apply("files.img", &before[..before.len() - 1]).is_err());
}

#[test]
fn limits_are_lowered_to_what_the_host_gives_and_no_further() {
    let core = |limits: &[(u64, u64)]| {
        let mut list = Vec::new();
        limits.iter().for_each(|(soft, hard)| put_bytes(number::LIMIT, &numbers(&[(1, *soft), (2, *hard)]), &mut list));
        let mut task = numbers(&[(1, 1)]);
        put_bytes(number::LIMITS, &list, &mut task);
        put_bytes(15, b"a handler", &mut task);
        let mut entry = numbers(&[(1, 1)]);
        put_bytes(number::TASK_CORE, &task, &mut entry);
        image(CORE, &[entry])
    };
    let rewrite = Rewrite { limits: Some(vec![None, Some(1000), Some(1000)]), ..Rewrite::default() };
    let before = core(&[(u64::MAX, u64::MAX), (500, 2000), (2000, u64::MAX), (7, 9)]);
    let after = core(&[(u64::MAX, u64::MAX), (500, 1000), (1000, 1000), (7, 9)]);
    assert_eq!(rewrite.apply("core-301.img", &before), Ok(after));
    assert!(rewrite.apply("core-301.img", &before[..before.len() - 1]).is_err());
}

#[test]
fn what_older_kernels_lack_is_seen_in_the_mappings() {
    use crate::criu::features::{Feature, of_image};
    let mapping = |flags: u64, status: u64| {
        let mut entry = numbers(&[(1, 0x40_0000)]);
        put_bytes(number::VMAS, &numbers(&[(1, 4096), (6, flags), (7, status)]), &mut entry);
        image(MM, &[entry])
    };
    assert_eq!(of_image("mm-1.img", &mapping(0x22, 0x201)), Ok(vec![]));
    assert_eq!(of_image("mm-1.img", &mapping(0, 0x1_0000)), Ok(vec![Feature::StackGuards]));
    assert_eq!(of_image("mm-1.img", &mapping(DROPPABLE, 0x201)), Ok(vec![Feature::DroppableMemory]));
    assert!(of_image("mm-1.img", &mapping(0, 0)[1..]).is_err());
}

fn core(groups: &[u32]) -> Vec<u8> {
    let mut thread = Vec::new();
    put_number(1, 0xdead_beef, &mut thread);
    put_bytes(10, &creds(groups), &mut thread);
    put_bytes(13, b"comm", &mut thread);
    let mut entry = Vec::new();
    put_number(1, 1, &mut entry);
    // A field of a future criu, of a kind that we never write.
    entry.extend_from_slice(&[0xf9, 0x07, 1, 2, 3, 4, 5, 6, 7, 8]);
    put_bytes(5, &thread, &mut entry);
    put_bytes(900, b"unknown", &mut entry);
    image(CORE, &[entry])
}

fn mm(flags: &[u64]) -> Vec<u8> {
    let mut entry = Vec::new();
    put_number(1, 0x40_0000, &mut entry);
    for flags in flags {
        let mut vma = Vec::new();
        put_number(1, 0x7fff_0000_0000, &mut vma);
        put_number(6, *flags, &mut vma);
        put_number(8, u64::MAX, &mut vma);
        put_bytes(14, &vma, &mut entry);
    }
    image(MM, &[entry.clone(), entry])
}

fn groups(groups: &[u32]) -> Rewrite {
    Rewrite { groups: Some(groups.to_vec()), ..Rewrite::default() }
}

#[test]
fn groups_are_replaced_and_nothing_else_is() {
    for (old, new) in [(&[1000, 65534][..], &[1000][..]), (&[], &[1, 2, 70_000]), (&[5], &[]), (&[7], &[7])] {
        // Where there were none, they go to the end of the credentials instead of in front of field 18.
        if old.is_empty() {
            let once = groups(new).apply("core-1.img", &core(old)).unwrap();
            assert_eq!(groups(new).apply("core-1.img", &once).unwrap(), once);
            assert_eq!(groups(&[]).apply("core-1.img", &once).unwrap(), core(&[]));
        } else {
            assert_eq!(groups(new).apply("core-1.img", &core(old)).unwrap(), core(new));
        }
    }
}

#[test]
fn packed_groups_are_replaced_too() {
    let mut packed = Vec::new();
    put_number(13, 0, &mut packed);
    put_bytes(14, &[1, 2, 3], &mut packed);
    let mut plain = Vec::new();
    put_number(13, 0, &mut plain);
    put_number(14, 9, &mut plain);
    assert_eq!(replace_groups(&packed, &[9]).unwrap(), plain);
}

#[test]
fn droppable_mappings_become_private_ones() {
    let undrop = Rewrite { undrop: true, ..Rewrite::default() };
    assert_eq!(undrop.apply("mm-7.img", &mm(&[0x22, 0x4028, 0x28])).unwrap(), mm(&[0x22, 0x4022, 0x28]));
    assert_eq!(groups(&[1]).apply("mm-7.img", &mm(&[0x4028])).unwrap(), mm(&[0x4028]));
}

#[test]
fn other_images_pass() {
    assert!(!groups(&[1]).concerns("pages-1.img"));
    assert!(!groups(&[1]).concerns("mm-1.img"));
    assert_eq!(groups(&[1]).apply("pages-1.img", b"anything").unwrap(), b"anything");
}

#[test]
fn bad_images_are_errors_and_never_panics() {
    let good = core(&[1, 2]);
    for len in 0..good.len() {
        // Cut between magic and first message it is an image without messages.
        assert_eq!(groups(&[3]).apply("core-1.img", &good[..len]).is_ok(), len == 8, "{len}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let _ = groups(&[3]).apply("core-1.img", &bad);
        }
    }
    assert!(matches!(groups(&[3]).apply("core-1.img", &mm(&[1])), Err(ImageError::Magic { .. })));
}
