//! Where each listener of a `SO_REUSEPORT` group stands. The kernel tells who is in a group, and in which order they began
//! to listen, but not at which places, and a steering program names places.
//!
//! A listener that joins is put at the end; when one leaves, the last takes its place. So places follow from watching
//! joins and leaves. Where several happen between two looks, more than one listener may stand at a place; then all of
//! them are remembered, and the place is used only if it does not matter which one it is.
//!
//! Where no place is left that way, one more thing is taken into account: those who have joined between two looks stand in
//! the order of their `listen` calls, unless yet another has joined and left again in these few milliseconds. All workers
//! of a boot begin to listen at about the same time.

use std::collections::BTreeSet;

/// Places that hold what they hold also when a listener leaves that stands elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Steady {
    pub(crate) places: Vec<u32>,
    /// Whether there is none such: then a program that names them points nowhere for a moment, and the kernel's hash decides.
    pub(crate) is_gap: bool,
}

/// The members of one group by their inodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// In the order of their `listen` calls.
    members: Vec<u64>,
    /// Who may stand at each place.
    places: Vec<BTreeSet<u64>>,
    /// Who stands at each place if nobody has come and gone unseen; `None` where that does not tell.
    likely: Option<Vec<u64>>,
}

impl Group {
    /// The members, in the order of their `listen` calls.
    pub(crate) fn members(&self) -> &[u64] {
        &self.members
    }

    /// One has joined alone, after everybody of the last look.
    pub(crate) fn join(&mut self, inode: u64) {
        self.suppose(&BTreeSet::new(), &[inode]);
        self.members.push(inode);
        self.places.push(BTreeSet::from([inode]));
    }

    /// Takes in a look at the group: its members in the order of their `listen` calls.
    pub(crate) fn observe(&mut self, now: &[u64]) {
        if self.members == now {
            return;
        }
        let is_old = |inode: &&u64| self.members.contains(inode);
        let (stayed, joined): (Vec<u64>, Vec<u64>) = now.iter().partition(|inode| is_old(inode));
        let left: BTreeSet<u64> = self.members.iter().copied().filter(|inode| !now.contains(inode)).collect();
        // One that has stopped to listen and begun again stands at another place now, and others may as well.
        let in_order = self.members.iter().filter(|inode| !left.contains(inode)).eq(&stayed);
        self.members = now.to_vec();
        if in_order {
            self.suppose(&left, &joined);
            self.shift(&left, &joined);
        } else {
            self.distrust();
        }
        if let Some(known) = self.known() {
            self.likely = Some(known);
        }
    }

    /// Follows those who have joined, or one who has left. Where more has happened, the order matters.
    fn suppose(&mut self, left: &BTreeSet<u64>, joined: &[u64]) {
        let likely = if self.places.is_empty() { Some(Vec::new()) } else { self.likely.take() };
        self.likely = match (left.first(), left.len()) {
            (None, _) => likely.map(|likely| [&likely, joined].concat()),
            (Some(left), 1) if joined.is_empty() => likely.and_then(|mut likely| {
                let place = likely.iter().position(|inode| inode == left)?;
                likely.swap_remove(place);
                Some(likely)
            }),
            _ => None,
        };
    }

    /// Who stands at each place, where that is known of all.
    fn known(&self) -> Option<Vec<u64>> {
        let alone = |place: &BTreeSet<u64>| place.first().copied().filter(|_| place.len() == 1);
        self.places.iter().map(alone).collect()
    }

    /// Some have left, some have joined before or after each of them, and others may have done both. Only one that has
    /// joined alone is known to be at the end.
    fn shift(&mut self, left: &BTreeSet<u64>, joined: &[u64]) {
        // The group was never smaller than this, so nobody who stood below has moved.
        let floor = self.places.len().saturating_sub(left.len());
        let above = self.places.split_off(floor);
        let movers: BTreeSet<u64> = above.into_iter().flatten().filter(|inode| !left.contains(inode)).collect();
        let movers: BTreeSet<u64> = movers.into_iter().chain(joined.iter().copied()).collect();
        for place in &mut self.places {
            if !place.is_disjoint(left) {
                *place = place.difference(left).chain(&movers).copied().collect();
            }
        }
        self.places.resize(self.members.len(), movers);
    }

    /// Forgets who stands where.
    pub(crate) fn distrust(&mut self) {
        self.likely = None;
        self.places = vec![self.members.iter().copied().collect(); self.members.len()];
    }

    /// The places at which only those stand who are `wanted`; where there are none for sure, where they are likely to.
    pub(crate) fn places_of(&self, wanted: impl Fn(u64) -> bool) -> Vec<u32> {
        let fits = |place: &BTreeSet<u64>| !place.is_empty() && place.iter().all(|inode| wanted(*inode));
        let sure: Vec<u32> =
            (0u32..).zip(&self.places).filter(|(_, place)| fits(place)).map(|(index, _)| index).collect();
        if !sure.is_empty() {
            return sure;
        }
        let likely = (0u32..).zip(self.likely.iter().flatten());
        likely.filter(|(_, inode)| wanted(**inode)).map(|(index, _)| index).collect()
    }

    /// Those of `places` that hold what they hold also when one that stands elsewhere leaves: all but the last of the group.
    /// If that leaves none, they stay as they are.
    pub(crate) fn steady(&self, places: Vec<u32>) -> Steady {
        let last = u32::try_from(self.places.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let steady: Vec<u32> = places.iter().copied().filter(|place| *place < last).collect();
        if steady.is_empty() { Steady { places, is_gap: true } } else { Steady { places: steady, is_gap: false } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own array.
    #[derive(Default)]
    struct Kernel {
        places: Vec<u64>,
        listed: Vec<u64>,
    }

    impl Kernel {
        fn join(&mut self, inode: u64) {
            self.places.push(inode);
            self.listed.push(inode);
        }

        fn leave(&mut self, nth: usize) {
            let inode = self.places.swap_remove(nth % self.places.len());
            self.listed.retain(|listed| *listed != inode);
        }
    }

    fn places(group: &Group) -> Vec<Vec<u64>> {
        group.places.iter().map(|place| place.iter().copied().collect()).collect()
    }

    #[test]
    fn the_last_takes_the_place_of_one_that_leaves() {
        let mut group = Group::default();
        for count in 1..=4 {
            group.observe(&(1..=count).collect::<Vec<_>>());
        }
        assert_eq!(places(&group), [[1], [2], [3], [4]]);
        group.observe(&[1, 3, 4]);
        assert_eq!(places(&group), [[1], [4], [3]]);
        group.observe(&[1, 3, 4, 5]);
        assert_eq!(places(&group), [[1], [4], [3], [5]]);
        assert_eq!(group.places_of(|inode| inode > 3), [1, 3]);
        assert_eq!(group.steady(vec![1, 3]), Steady { places: vec![1], is_gap: false });
        assert_eq!(group.steady(vec![3]), Steady { places: vec![3], is_gap: true });
    }

    #[test]
    fn what_cannot_be_known_is_not_claimed() {
        let mut group = Group::default();
        for count in 1..=3 {
            group.observe(&(1..=count).collect::<Vec<_>>());
        }
        // 4 may have come before 2 went, and 3 then stays where it is.
        group.observe(&[1, 3, 4]);
        assert_eq!(places(&group), [vec![1], vec![3, 4], vec![3, 4]]);
        assert_eq!(group.places_of(|inode| inode != 1), [1, 2]);
        assert_eq!(group.places_of(|inode| inode == 4), Vec::<u32>::new());
        // 1 has stopped to listen and begun again.
        group.observe(&[3, 4, 1]);
        assert_eq!(places(&group), vec![vec![1, 3, 4]; 3]);
        // Two have come, and a third may have come before them and gone.
        group.observe(&[3, 4, 1, 5, 6]);
        assert_eq!(group.places_of(|inode| inode > 4), [3, 4]);
        assert_eq!(group.places_of(|inode| inode == 5), Vec::<u32>::new());
        group.observe(&[]);
        assert!(group.members().is_empty());
    }

    #[test]
    fn who_has_joined_between_two_looks_is_likely_to_stand_in_order() {
        let mut group = Group::default();
        group.observe(&[1, 2, 3]);
        assert_eq!(group.places_of(|inode| inode != 1), [1, 2]);
        group.observe(&[1, 2, 3, 4]);
        assert_eq!(group.places_of(|inode| inode == 4), [3], "for sure");
        // 4 takes the place of 1.
        group.observe(&[2, 3, 4]);
        assert_eq!(group.places_of(|inode| inode == 4), [0]);
        assert_eq!(group.places_of(|inode| inode == 3), [2]);
        // 5 may have come before 2 went.
        group.observe(&[3, 4, 5]);
        assert_eq!(group.places_of(|inode| inode == 3), Vec::<u32>::new());
        // One who is left alone can only stand at the first place.
        group.observe(&[5]);
        group.observe(&[5, 6, 7]);
        assert_eq!(group.places_of(|inode| inode == 7), [2]);
        group.distrust();
        assert_eq!(group.places_of(|inode| inode == 7), Vec::<u32>::new());
    }

    #[test]
    fn whatever_happens_between_looks_the_truth_is_among_what_is_remembered() {
        let mut random = 1u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % limit
        };
        for _ in 0..2_000 {
            let (mut kernel, mut group, mut next) = (Kernel::default(), Group::default(), 0);
            for _ in 0..30 {
                for _ in 0..=below(4) {
                    if below(2) == 0 || kernel.places.is_empty() {
                        kernel.join(next);
                        next += 1;
                    } else {
                        kernel.leave(usize::try_from(below(64)).unwrap());
                    }
                }
                group.observe(&kernel.listed);
                assert_eq!(group.places.len(), kernel.places.len());
                for (place, inode) in group.places.iter().zip(&kernel.places) {
                    assert!(place.contains(inode), "{:?} is {:?}", group.places, kernel.places);
                }
            }
        }
    }
}
