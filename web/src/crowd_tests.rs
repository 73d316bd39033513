use super::*;

/// Members, and a clock that stands still unless it is told not to.
struct House {
    members: Members,
    now: Instant,
}

impl House {
    /// All places taken, by members that have been heard and have had their time.
    fn full() -> (Self, Vec<u64>) {
        let mut house = Self { members: Members::default(), now: Instant::now() };
        let ids = (0..PLACES).map(|_| house.heard()).collect();
        house.now += TENURE;
        (house, ids)
    }

    /// One more, at the pace, that has been heard.
    fn heard(&mut self) -> u64 {
        self.now += PACE;
        let now = self.now;
        let (id, _) = self.members.enter(now).expect("a place");
        self.members.change(id, |member| member.heard(now));
        id
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Member)) {
        self.members.change(id, change);
    }

    fn stays(&self, id: u64) -> bool {
        self.members.by_id.contains_key(&id)
    }
}

#[test]
fn nobody_yields_unheard() {
    let mut members = Members::default();
    let now = Instant::now();
    let ids: Vec<u64> = (0..PLACES).map(|_| members.enter(now).expect("a place").0).collect();
    let mut house = House { members, now: now + 10 * TENURE };
    assert_eq!(house.members.enter(house.now).map(|(id, _)| id), Err(Full::Nobody));
    house.change(ids[7], |member| member.heard(now));
    let newcomer = house.heard();
    assert!(!house.stays(ids[7]) && house.stays(newcomer) && house.stays(ids[0]));
}

#[test]
fn in_a_full_house_newcomers_come_in_at_a_pace() {
    let (mut house, _) = House::full();
    let start = house.now;
    for nth in 0..u32::try_from(PLACES).expect("few") / 2 {
        let now = start + PACE * nth;
        assert!(house.members.enter(now).is_ok(), "{nth}");
        let entered = house.members.enter(now).map(|(id, _)| id);
        assert_eq!(entered, Err(Full::Until(now + PACE)), "{nth}");
    }
    // What a late timer has cost is made up for, a long silence is not.
    let late = start + TENURE;
    let burst = (0..PLACES).take_while(|_| house.members.enter(late).is_ok()).count();
    assert!((2..20).contains(&burst), "{burst} at once");
}

#[test]
fn each_has_its_time_from_its_latest_event_on() {
    let (mut house, ids) = House::full();
    let start = house.now;
    for &id in &ids {
        house.change(id, |member| member.heard(start));
    }
    house.change(ids[0], |member| member.completed(start + TENURE / 2));
    house.now = start + TENURE.mul_f64(0.9);
    let entered = house.members.enter(house.now).map(|(id, _)| id);
    assert_eq!(entered, Err(Full::Until(start + TENURE)));
    house.now = start + TENURE;
    house.heard();
    assert!(house.stays(ids[0]) && !house.stays(ids[1]) && house.stays(ids[2]));
}

#[test]
fn the_longest_idle_yields_the_proven_last_and_the_acting_never() {
    let (mut house, ids) = House::full();
    let now = house.now;
    house.change(ids[0], |member| member.proven = true);
    house.change(ids[1], |member| member.acting = true);
    house.change(ids[2], |member| member.completed(now));
    let newcomers = [house.heard(), house.heard()];
    assert!([3, 4].iter().all(|&nth| !house.stays(ids[nth])), "the two oldest idle ones yield");
    assert!([0, 1, 2, 5].iter().all(|&nth| house.stays(ids[nth])));
    assert!(newcomers.iter().all(|&id| house.stays(id)));

    house.now += TENURE;
    let more: Vec<u64> = (2..PLACES).map(|_| house.heard()).collect();
    assert!(house.stays(ids[1]), "what is acted on stays");
    assert!(house.stays(ids[0]), "credentials weigh more than age");
    for &id in more.iter().chain([&ids[0]]) {
        house.change(id, |member| member.acting = true);
    }
    let entered = house.members.enter(house.now).map(|(id, _)| id);
    assert_eq!(entered, Err(Full::Nobody), "all are acting: the newcomer waits");
    house.change(ids[1], |member| member.completed(now));
    house.heard();
    assert!(!house.stays(ids[1]) && more.iter().all(|&id| house.stays(id)));
}

#[test]
fn those_with_credentials_keep_half_of_the_places_and_no_more() {
    let (mut house, ids) = House::full();
    let (strangers, insiders) = ids.split_at(PLACES - PRIVILEGED - 1);
    for &id in insiders {
        house.change(id, |member| member.proven = true);
    }
    house.heard();
    assert!(!house.stays(insiders[0]), "one more than half of the places were theirs");
    house.heard();
    assert!(!house.stays(strangers[0]), "half of the places are theirs");
    assert!(insiders[1..].iter().chain(&strangers[1..]).all(|&id| house.stays(id)));
}

#[tokio::test]
async fn a_newcomer_comes_in_when_somebody_has_had_its_time() {
    let crowd = Arc::new(Crowd::default());
    let mut places = Vec::new();
    for _ in 0..PLACES {
        places.push(crowd.enter().await);
    }
    places[3].heard();
    let newcomer = crowd.enter().await;
    places[3].yielded().await;
    drop(newcomer);
    // At once: a place is free.
    crowd.enter().await;
}
