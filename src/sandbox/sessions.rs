//! Whether CRIU finds a way to each process's session. A session is inherited: a process gets one that is not its own
//! only as the child of a process that is in it. CRIU 4.2.1 looks for that process when it restores (criu/pstree.c,
//! `prepare_pstree_ids`), and gives up if the tree does not show it any more. What it does there is done here, before
//! the checkpoint is committed.

use std::collections::BTreeMap;

/// A process of the tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
}

/// A process of the tree with this root that CRIU could not bring back into its session.
pub(super) fn lost(root: i32, members: &[Member]) -> Option<i32> {
    let members = &tree(root, members);
    let sessions: BTreeMap<i32, i32> = members.iter().map(|member| (member.pid, member.session)).collect();
    let of_root = *sessions.get(&root)?;
    // What the root has adopted is made by a helper in its session, which ends then. If the session's leader has ended,
    // that helper has the number of the session; else it is a child of the leader, and has a negative number here.
    let mut parents: BTreeMap<i32, i32> = BTreeMap::new();
    for member in members.iter().filter(|member| member.pid != root) {
        let (pid, session) = (member.pid, member.session);
        let adopted = member.parent == root && session != of_root && session != pid;
        let parent = match (adopted, sessions.contains_key(&session)) {
            (false, _) => member.parent,
            (true, true) => {
                parents.insert(-session, session);
                -session
            }
            (true, false) => {
                parents.insert(session, root);
                session
            }
        };
        parents.insert(pid, parent);
    }
    let session_of = |pid: i32| sessions.get(&pid).copied().unwrap_or(pid.abs());
    let mut born: BTreeMap<i32, i32> = BTreeMap::new();
    let is_lost = |member: &&Member| {
        let (pid, session) = (member.pid, member.session);
        if pid == root || session == pid {
            return false;
        }
        let mut above = parents.get(&pid).copied();
        if above.is_some_and(|parent| session_of(parent) == session) {
            return false;
        }
        // Somebody above began the session after this process's parent, or one of its, was made.
        while let Some(parent) = above.filter(|parent| *parent != session) {
            if born.insert(parent, session).is_some_and(|other| other != session) {
                return true;
            }
            above = parents.get(&parent).copied();
        }
        above.is_none()
    };
    members.iter().find(is_lost).map(|member| member.pid)
}

/// Those below the root, and the root: criu's own are none of them.
fn tree(root: i32, members: &[Member]) -> Vec<Member> {
    let parents: BTreeMap<i32, i32> = members.iter().map(|member| (member.pid, member.parent)).collect();
    let is_below = |member: &&Member| {
        let way = std::iter::successors(Some(member.pid), |pid| parents.get(pid).copied());
        // As many steps as there are processes.
        way.take(members.len() + 1).any(|pid| pid == root)
    };
    members.iter().filter(is_below).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is pid, parent, session. The root is 300, in its own session.
    fn lost_of(members: &[(i32, i32, i32)]) -> Option<i32> {
        let all = [(300, 1, 300)].iter().chain(members).map(|&(pid, parent, session)| Member { pid, parent, session });
        lost(300, &all.collect::<Vec<_>>())
    }

    #[test]
    fn ordinary_trees_orphans_and_daemons_are_found() {
        assert_eq!(lost_of(&[(301, 300, 300), (302, 301, 302), (303, 302, 302)]), None);
        // The leader has ended, and its children are the root's.
        assert_eq!(lost_of(&[(303, 300, 302), (304, 300, 302), (305, 303, 302)]), None);
        // The leader is alive elsewhere.
        assert_eq!(lost_of(&[(302, 301, 302), (301, 300, 300), (303, 300, 302)]), None);
        // criu and its helper are not of the tree.
        assert_eq!(lost_of(&[(7, 1, 5), (8, 7, 5)]), None);
        // The parent has begun a session of its own since.
        assert_eq!(lost_of(&[(301, 300, 301), (302, 301, 302), (303, 302, 301)]), None);
    }

    #[test]
    fn a_session_without_a_way_to_it_is_told() {
        // Its parent has begun another session, and nobody above is the old one's leader.
        assert_eq!(lost_of(&[(302, 300, 302), (303, 302, 301)]), Some(303));
        // Its parent would have been born in two sessions.
        assert_eq!(
            lost_of(&[(301, 300, 301), (302, 301, 302), (303, 302, 303), (304, 303, 301), (305, 303, 302)]),
            Some(305)
        );
    }
}
