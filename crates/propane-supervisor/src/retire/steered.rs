//! A group of listeners and the program that steers it: what it has to say, and why it cannot. Pure.

use std::time::Duration;

use crate::group::{Group, Steady};

/// A group with the program in force.
#[derive(Debug, Default)]
pub(super) struct Steered {
    pub(super) group: Group,
    /// The places that the program in force names.
    pub(super) program: Option<Vec<u32>>,
    /// Why there is none, where there should be one.
    pub(super) obstacle: Option<Obstacle>,
    /// Whether the program has named a place out of range for a moment, because somebody has left unasked or no other place
    /// was to be had: then anybody may have been given a connection.
    is_disturbed: bool,
}

/// Why new connections cannot be kept from somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Nobody else may be given them.
    Nobody,
    /// This listener is no worker's.
    Foreign(u64),
    /// It is not known who stands where.
    Unsure,
    /// The kernel refuses the program.
    Refused,
}

/// For how long a listener must be a stranger's. One of a worker that is being killed is nobody's until its last thread has
/// ended, which may take a while on a busy machine; and nothing is lost meanwhile, because nobody is told to leave.
const STRANGER_PATIENCE: Duration = Duration::from_secs(1);

impl Obstacle {
    /// Whether it counts once it has stood for so long.
    pub(super) fn has_lasted(self, stood: Duration) -> bool {
        match self {
            Self::Foreign(_) => stood >= STRANGER_PATIENCE,
            Self::Nobody | Self::Unsure | Self::Refused => true,
        }
    }
}

/// What a listener is to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its worker serves, and stays.
    Stays,
    /// Its worker leaves, and a duplicate of it is held.
    Leaves,
    /// Its worker does not serve, or not any more.
    Idle,
    /// It is not known whose it is.
    Foreign,
}

impl Steered {
    /// Takes in who is in the group now. `released` has left because it was let go.
    pub(super) fn observe(&mut self, members: &[u64], released: Option<u64>) {
        let is_lost = |inode: &u64| !members.contains(inode) && Some(*inode) != released;
        self.is_disturbed |= self.group.members().iter().any(is_lost);
        self.group.observe(members);
    }

    /// Whether anybody may have been given a connection since this was asked last, although a program was in force.
    pub(super) fn was_disturbed(&mut self) -> bool {
        std::mem::take(&mut self.is_disturbed)
    }

    /// The places that the program has to name, unless the one in force does.
    pub(super) fn wanted(&self, standing: impl Fn(u64) -> Standing) -> Result<Option<Vec<u32>>, Obstacle> {
        let members = self.group.members();
        let any = |wanted| members.iter().any(|inode| standing(*inode) == wanted);
        if !any(Standing::Leaves) {
            // Nobody leaves from here. A program that is in force has nothing to say any more.
            return if self.program.is_none() { Ok(None) } else { Err(Obstacle::Nobody) };
        }
        if let Some(foreign) = members.iter().find(|inode| standing(**inode) == Standing::Foreign) {
            return Err(Obstacle::Foreign(*foreign));
        }
        let places = self.group.places_of(|inode| standing(inode) == Standing::Stays);
        if places.is_empty() {
            return Err(if any(Standing::Stays) { Obstacle::Unsure } else { Obstacle::Nobody });
        }
        let is_in_force = self.program.as_ref() == Some(&places);
        Ok((!is_in_force).then_some(places))
    }

    /// What the program in force has to name while a listener leaves.
    pub(super) fn steady(&self, standing: impl Fn(u64) -> Standing) -> Option<Steady> {
        self.program.as_ref()?;
        Some(self.group.steady(self.group.places_of(|inode| standing(inode) == Standing::Stays)))
    }

    /// The program in force names other places now.
    pub(super) fn adapt(&mut self, steady: Steady) {
        self.is_disturbed |= steady.is_gap;
        self.program = Some(steady.places);
    }

    /// Whether enough places stay sure when one more listener leaves than is `about_to`.
    pub(super) fn stays_sure(&self, about_to: impl Fn(u64) -> bool) -> bool {
        let members = self.group.members();
        let leaving = members.iter().filter(|inode| about_to(**inode)).count();
        let stay = u32::try_from(members.len().saturating_sub(leaving + 1)).unwrap_or(0);
        let sure = self.program.iter().flatten().any(|place| *place < stay);
        leaving == 0 || sure
    }
}

#[cfg(test)]
mod tests {
    use Standing::{Foreign, Idle, Leaves, Stays};

    use super::*;

    /// A group whose members joined one by one, named by their places, with a program.
    fn steered(standings: &[Standing], program: Option<&[u32]>) -> Steered {
        let mut steered = Steered::default();
        for count in 1..=standings.len() as u64 {
            steered.observe(&(0..count).collect::<Vec<_>>(), None);
        }
        steered.program = program.map(<[u32]>::to_vec);
        steered
    }

    fn of(standings: &[Standing]) -> impl Fn(u64) -> Standing {
        |inode| standings[usize::try_from(inode).unwrap()]
    }

    #[test]
    fn a_listener_is_not_taken_for_a_strangers_at_once() {
        let table =
            [(Obstacle::Foreign(7), 0, false), (Obstacle::Foreign(7), 1_000, true), (Obstacle::Nobody, 0, true)];
        for (obstacle, millis, expected) in table {
            assert_eq!(obstacle.has_lasted(Duration::from_millis(millis)), expected, "{obstacle:?} {millis}");
        }
    }

    /// Who stands there, the program in force, and what it has to name.
    type Row = (&'static [Standing], Option<&'static [u32]>, Result<Option<&'static [u32]>, Obstacle>);

    #[test]
    fn a_program_names_those_who_stay_while_somebody_leaves() {
        let table: [Row; 9] = [
            (&[Stays, Stays], None, Ok(None)),
            (&[Stays, Stays], Some(&[0]), Err(Obstacle::Nobody)),
            (&[Stays, Leaves, Stays], None, Ok(Some(&[0, 2]))),
            (&[Stays, Leaves, Stays], Some(&[0, 2]), Ok(None)),
            (&[Stays, Leaves, Idle], Some(&[0, 2]), Ok(Some(&[0]))),
            (&[Leaves, Idle], None, Err(Obstacle::Nobody)),
            (&[Leaves, Stays, Foreign], None, Err(Obstacle::Foreign(2))),
            // Nobody leaves, so a stranger does not matter.
            (&[Stays, Foreign], None, Ok(None)),
            (&[Leaves], Some(&[0]), Err(Obstacle::Nobody)),
        ];
        for (standings, program, expected) in table {
            let found = steered(standings, program).wanted(of(standings));
            assert_eq!(found, expected.map(|places| places.map(<[u32]>::to_vec)), "{standings:?} {program:?}");
        }
    }

    #[test]
    fn where_nobody_is_known_to_stand_there_is_no_program() {
        let standings = [Leaves, Stays, Stays];
        let mut steered = steered(&standings, None);
        steered.group.distrust();
        assert_eq!(steered.wanted(of(&standings)), Err(Obstacle::Unsure));
    }

    #[test]
    fn who_leaves_unasked_disturbs_the_program() {
        for (released, disturbed) in [(Some(2), false), (None, true)] {
            let mut steered = steered(&[Stays, Leaves, Leaves], Some(&[0]));
            steered.observe(&[0, 1], released);
            assert_eq!(steered.was_disturbed(), disturbed, "{released:?}");
            assert!(!steered.was_disturbed());
        }
    }

    #[test]
    fn while_a_listener_leaves_the_last_place_is_not_named_if_there_is_another() {
        let table: [(&[Standing], &[u32], bool); 3] =
            [(&[Stays, Leaves, Stays], &[0], false), (&[Leaves, Stays], &[1], true), (&[Stays, Leaves], &[0], false)];
        for (standings, places, disturbed) in table {
            let mut steered = steered(standings, Some(&[0]));
            let steady = steered.steady(of(standings)).unwrap();
            assert_eq!(steady.places, places, "{standings:?}");
            steered.adapt(steady);
            assert_eq!(steered.program.as_deref(), Some(places), "{standings:?}");
            assert_eq!(steered.was_disturbed(), disturbed, "{standings:?}");
        }
        assert_eq!(steered(&[Stays, Leaves], None).steady(of(&[Stays, Leaves])), None);
    }

    #[test]
    fn one_more_may_leave_while_a_sure_place_is_left() {
        // How many there are, the places in force, how many are about to leave.
        let table: [(u64, &[u32], u64, bool); 5] = [
            (2, &[], 0, true),
            (4, &[0, 1], 1, true),
            (4, &[2, 3], 1, false),
            (4, &[1], 2, false),
            (2, &[0], 1, false),
        ];
        for (count, places, about_to, expected) in table {
            let standings = vec![Stays; usize::try_from(count).unwrap()];
            let steered = steered(&standings, Some(places));
            assert_eq!(steered.stays_sure(|inode| inode < about_to), expected, "{count} {places:?} {about_to}");
        }
    }
}
