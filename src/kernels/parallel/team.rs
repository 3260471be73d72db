//! Threads that help with the kernels' work.
//!
//! A step of training is some fifty short parallel loops with little between them. To put a thread to sleep after each and wake
//! it for the next takes about as long as the loop. So helpers keep looking for work for a while, and whoever has work takes part
//! in it and never waits for a helper that has not begun: helpers that are late, asleep or crowded out cost nothing.
//!
//! Where all take part, each takes pieces from a share of its own, neighbours of one another and the same ones in every loop of as
//! many pieces, and only then from the far ends of the others': what a core wrote it reads again, and few cache lines are
//! written by two.
//!
//! What does not wait for each other need not be shared out in loops: a helper can take over a whole call, and its loops are shared
//! with whoever has nothing to do, such as the thread that waits for the call.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps: longer than what a step does between two loops.
const PATIENCE: Duration = Duration::from_micros(200);

/// What all of the process share.
pub(super) fn team() -> &'static Team {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    // Unit tests compare the bytes that many threads make, on a machine of few.
    let helpers = || if cfg!(test) { 7 } else { rayon::current_num_threads().saturating_sub(1) };
    TEAM.get_or_init(|| Team::leak(helpers()))
}

thread_local! {
    /// Whether this thread is doing a piece of a loop: what is parallel in that stays on it.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };

    /// The call that this thread is doing for another.
    static CALL: Cell<Option<Call>> = const { Cell::new(None) };
}

/// How many helpers may take part in what this thread shares: one less than the threads of the rayon pool that it is in, or that
/// the thread is in whose call it does.
pub(super) fn helpers() -> usize {
    let of_call = CALL.get().map(|call| call.helpers);
    of_call.unwrap_or_else(|| rayon::current_num_threads().saturating_sub(1))
}

/// A loop that is being shared, or a call that a helper may take over.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    /// Shares that hold all of its pieces, the first that of the thread that brought it.
    shares: usize,
    /// Where it is a call.
    call: Option<Call>,
}

/// A call that a helper may take over.
#[derive(Clone, Copy)]
struct Call {
    /// How many helpers may take part in what is parallel in it.
    helpers: usize,
    /// The number of its stage.
    stage: usize,
    /// That of the call that it was brought in, where a thread did that one for another.
    within: Option<usize>,
}

/// Pieces that are left of a share: the first in the upper half of the number, the one after the last in the lower.
///
/// Each has cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn fill(&self, pieces: Range<usize>) {
        self.0.store((pieces.start as u64) << 32 | pieces.end as u64, SeqCst);
    }

    /// Takes a piece from the front, or from the back.
    fn take(&self, front: bool) -> Option<usize> {
        let (first, end) = (|pieces: u64| pieces >> 32, |pieces: u64| pieces & 0xffff_ffff);
        let less = |pieces: u64| {
            let left = first(pieces) < end(pieces);
            left.then(|| if front { pieces + (1 << 32) } else { pieces - 1 })
        };
        let pieces = self.0.fetch_update(SeqCst, SeqCst, less).ok()?;
        Some(if front { first(pieces) } else { end(pieces) - 1 } as usize)
    }
}

/// Where one job at a time is shared.
#[repr(align(128))]
struct Stage {
    /// Held by the thread whose job it is.
    turn: Mutex<()>,
    /// Goes up by one when a job opens and when it closes: odd while helpers may enter.
    state: AtomicUsize,
    /// Helpers, or threads that wait for one, that may be looking at `job`.
    inside: AtomicUsize,
    job: UnsafeCell<Job>,
    /// Helpers that came to this job, whether or not they were needed.
    entered: AtomicUsize,
    /// One for each thread.
    shares: Box<[Share]>,
    /// What a helper's piece panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is the one part that is not `Sync`. It is written by the holder of `turn` while `state` is even and no helper is
// inside, and read by helpers that are inside and have then seen `state` odd; `state` orders the two. The function behind
// its pointer is `Sync`, and outlives the job: who opened it goes on after the last helper has left.
unsafe impl Sync for Stage {}
// SAFETY: as above.
unsafe impl Send for Stage {}

impl Stage {
    fn new(threads: usize) -> Self {
        Self {
            turn: Mutex::default(),
            state: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { work: &|_| (), shares: 0, call: None }),
            entered: AtomicUsize::new(0),
            shares: (0..threads).map(|_| Share::default()).collect(),
            panic: Mutex::default(),
        }
    }

    /// Does pieces while there are any: those of its own share, from the front, then those of the others, from the back.
    fn pieces(&self, own: usize, shares: usize, work: &(dyn Fn(usize) + Sync)) {
        for i in 0..shares {
            let share = &self.shares[(own + i) % shares];
            while let Some(piece) = share.take(i == 0) {
                work(piece);
            }
        }
    }

    /// Takes part in the job that was open in this state, if it still is; in a call only where `takes` says so.
    fn enter(&self, state: usize, own: usize, takes: impl Fn(Call) -> bool) {
        self.inside.fetch_add(1, SeqCst);
        // Once more: a job that closed before this helper came inside may be gone.
        if self.state.load(SeqCst) == state {
            // SAFETY: this helper is inside and the job open, so it stays until the helper has left.
            let job = unsafe { *self.job.get() };
            let wanted = job.call.is_none_or(takes);
            if wanted && self.entered.fetch_add(1, SeqCst) + 1 < job.shares {
                // SAFETY: as above; the function lives as long as the job.
                let work = unsafe { &*job.work };
                let before = (AT_WORK.replace(job.call.is_none()), CALL.replace(job.call));
                let pieces = AssertUnwindSafe(|| self.pieces(own, job.shares, work));
                let result = catch_unwind(pieces);
                AT_WORK.set(before.0);
                CALL.set(before.1);
                if let Err(panic) = result {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                }
            }
        }
        self.inside.fetch_sub(1, SeqCst);
    }

    /// The state, where a job is open that is not the one in `done`.
    fn news(&self, done: usize) -> Option<usize> {
        Some(self.state.load(SeqCst)).filter(|&state| state % 2 == 1 && state != done)
    }
}

/// Jobs that are shared at once: some calls beside others, and a loop of each. Further ones are done by the threads that bring them.
const STAGES: usize = 8;

/// Helpers, and the jobs that they share with the threads that brought them.
pub(super) struct Team {
    stages: [Stage; STAGES],
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

impl Team {
    /// A team of so many helpers, for the rest of the process.
    fn leak(helpers: usize) -> &'static Self {
        let team: &Self = Box::leak(Box::new(Self {
            stages: std::array::from_fn(|_| Stage::new(helpers + 1)),
            asleep: AtomicUsize::new(0),
            bed: Mutex::default(),
            bell: Condvar::new(),
        }));
        for i in 1..=helpers {
            // Calls are a model's passes, which may be deep.
            let thread = std::thread::Builder::new().stack_size(16 << 20);
            let thread = thread.name(format!("wgan-kernels-{i}"));
            // A system that grants no more threads gets the same results, later.
            let _ = thread.spawn(move || team.help(i));
        }
        team
    }

    /// A stage without a job, unless there is nobody to share one with or this thread is doing a piece of a loop.
    fn free_stage(&self, helpers: usize) -> Option<(usize, MutexGuard<'_, ()>)> {
        if AT_WORK.get() || helpers.min(self.stages[0].shares.len() - 1) == 0 {
            return None;
        }
        self.stages.iter().enumerate().find_map(|(i, stage)| match stage.turn.try_lock() {
            Ok(turn) => Some((i, turn)),
            Err(TryLockError::Poisoned(turn)) => Some((i, turn.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    /// Calls `work` with each number below `count`, on this thread and those of at most so many helpers.
    ///
    /// Inside a piece of another loop, and while all stages are taken, all of it is done on this thread.
    pub(super) fn share(&self, count: usize, helpers: usize, work: &(dyn Fn(usize) + Sync)) {
        let stage = (2..=u32::MAX as usize).contains(&count).then(|| self.free_stage(helpers));
        let Some((stage, turn)) = stage.flatten() else {
            return (0..count).for_each(work);
        };
        let stage = &self.stages[stage];
        let shares = stage.shares.len().min(helpers + 1).min(count);
        for (i, share) in stage.shares[..shares].iter().enumerate() {
            let end = |i: usize| (count as u64 * i as u64 / shares as u64) as usize;
            share.fill(end(i)..end(i + 1));
        }
        let open = self.open(stage, turn, Job { work: erase(work), shares, call: None });
        AT_WORK.set(true);
        stage.pieces(0, shares, work);
        open.close();
    }

    /// Calls `work` on this thread, and `other` on one of the helpers' where one comes in time, or else on this one after it. Loops
    /// of both are shared.
    pub(super) fn beside<A, B: Send>(
        &self,
        helpers: usize,
        work: impl FnOnce() -> A,
        other: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        let Some((number, turn)) = self.free_stage(helpers) else {
            return (work(), other());
        };
        let stage = &self.stages[number];
        let (other, made) = (Mutex::new(Some(other)), Mutex::new(None));
        let call = |_| {
            let other = other.lock().unwrap_or_else(PoisonError::into_inner).take();
            let value = other.map(|other| other());
            *made.lock().unwrap_or_else(PoisonError::into_inner) = value;
        };
        stage.shares[0].fill(0..0);
        stage.shares[1].fill(0..1);
        let within = CALL.get().map(|call| call.stage);
        let this = Call { helpers, stage: number, within };
        let job = Job { work: erase(&call), shares: 2, call: Some(this) };
        let open = self.open(stage, turn, job);
        let value = work();
        stage.pieces(0, 2, &call);
        open.close();
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        (value, made.expect("the piece was taken once, and a panic in it was passed on"))
    }

    fn open<'a>(&'a self, stage: &'a Stage, turn: MutexGuard<'a, ()>, job: Job) -> Open<'a> {
        // SAFETY: this thread has the turn, and the job before was closed with nobody left inside; who comes inside now finds
        // `state` even, and does not look.
        unsafe { *stage.job.get() = job };
        *stage.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        stage.entered.store(0, SeqCst);
        stage.state.fetch_add(1, SeqCst);
        // A helper says that it sleeps and then looks at `state` once more: it sees the job, or is seen here.
        let sleepers = self.asleep.load(SeqCst);
        if sleepers > 0 {
            let _bed = self.bed.lock();
            for _ in 0..sleepers.min(job.shares - 1) {
                self.bell.notify_one();
            }
        }
        Open { team: self, stage, call: job.call, _turn: turn }
    }

    /// What a helper does all its life.
    fn help(&self, own: usize) {
        let mut done = [0; STAGES];
        loop {
            let (stage, state) = self.wait(&done);
            self.stages[stage].enter(state, own, |_| true);
            done[stage] = state;
        }
    }

    /// A job other than those that are done.
    fn news(&self, done: &[usize; STAGES]) -> Option<(usize, usize)> {
        let mut stages = self.stages.iter().zip(done).enumerate();
        stages.find_map(|(i, (stage, &done))| Some((i, stage.news(done)?)))
    }

    /// Waits for a job other than those that are done.
    fn wait(&self, done: &[usize; STAGES]) -> (usize, usize) {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            for _ in 0..32 {
                if let Some(news) = self.news(done) {
                    return news;
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, SeqCst);
        let news = loop {
            if let Some(news) = self.news(done) {
                break news;
            }
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, SeqCst);
        news
    }
}

/// A job that helpers may enter. Dropped, by the end of the work or by a panic in it, it closes and waits for them to leave.
struct Open<'a> {
    team: &'a Team,
    stage: &'a Stage,
    call: Option<Call>,
    _turn: MutexGuard<'a, ()>,
}

impl Open<'_> {
    /// Ends the job, and goes on with a panic that a helper met in it.
    fn close(self) {
        self.end();
        // While no other job can have the stage.
        let panic = self.stage.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(self);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Lets nobody in any more, and waits for those inside to leave.
    fn end(&self) {
        AT_WORK.set(false);
        let Self { team, stage, .. } = *self;
        // An even number: it has ended.
        if stage.state.load(SeqCst).is_multiple_of(2) {
            return;
        }
        // Where this is a panic, helpers find nothing more to do.
        let panicking = std::thread::panicking();
        if panicking {
            stage.shares.iter().for_each(|share| share.fill(0..0));
        }
        stage.state.fetch_add(1, SeqCst);
        let mut done = [0; STAGES];
        let mut looks = 0_u32;
        while stage.inside.load(SeqCst) > 0 {
            // A call takes long: this thread helps meanwhile with loops, and with calls that were brought directly in this one, but
            // begins no stranger's, which may take longer. To one that is no helper the second share is as good as any.
            if let Some(this) = self.call
                && !panicking
                && let Some((i, state)) = team.news(&done)
            {
                team.stages[i].enter(state, 1, |call| call.within == Some(this.stage));
                done[i] = state;
            }
            looks += 1;
            if !looks.is_multiple_of(1024) {
                std::hint::spin_loop();
            } else if self.call.is_none() || rayon::yield_now().is_none() {
                // A helper in the middle of a piece may have been put aside for another program. In a call it may wait for the
                // rayon pool that this thread belongs to, which has just been given a chance to go on.
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The function without its lifetime.
fn erase<'a>(work: &'a (dyn Fn(usize) + Sync + 'a)) -> *const (dyn Fn(usize) + Sync) {
    let work: *const (dyn Fn(usize) + Sync + 'a) = work;
    // SAFETY: only the lifetime differs. The pointer is followed while the job is open, which ends before `'a` does.
    unsafe { std::mem::transmute(work) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece once, for jobs one right after the other, after naps, of several threads at once, and within pieces.
    #[test]
    fn every_piece_is_done_once() {
        let team = Team::leak(3);
        let run = |count: usize, helpers: usize| {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            team.share(count, helpers, &|i| {
                done[i].fetch_add(1, SeqCst);
                team.share(2, helpers, &|_| {
                    done[i].fetch_add(10, SeqCst);
                });
            });
            assert!(done.iter().all(|done| done.load(SeqCst) == 21), "{count} with {helpers}");
        };
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || {
                    for round in 0..2000 {
                        run(1 + (round + thread) % 40, round % 5);
                        if round % 500 == 0 {
                            std::thread::sleep(3 * PATIENCE);
                        }
                    }
                });
            }
        });
    }

    /// Calls beside each other, in each other, of several threads at once, with loops in them: also more than there are stages.
    #[test]
    fn calls_beside_each_other_are_each_made_once() {
        fn sum(team: &Team, helpers: usize, depth: usize) -> usize {
            if depth == 0 {
                let total = AtomicUsize::new(0);
                team.share(10, helpers, &|i| {
                    total.fetch_add(i, SeqCst);
                });
                return total.into_inner();
            }
            let half = || sum(team, helpers, depth - 1);
            let (a, b) = team.beside(helpers, half, half);
            a + b
        }
        for team in [Team::leak(0), Team::leak(1), Team::leak(3)] {
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    scope.spawn(move || {
                        for round in 0..300 {
                            let depth = (round + thread) % 6;
                            assert_eq!(sum(team, round % 3, depth), 45 << depth);
                            if round % 100 == 0 {
                                std::thread::sleep(3 * PATIENCE);
                            }
                        }
                    });
                }
            });
        }
    }

    /// The caller goes on with its own work, and what it waits for is done elsewhere meanwhile.
    #[test]
    fn a_helper_takes_a_call_over() {
        let team = Team::leak(1);
        let here = std::thread::current().id();
        // Until it has, however busy the machine.
        loop {
            let nap = || std::thread::sleep(Duration::from_millis(1));
            let (_, there) = team.beside(1, nap, || std::thread::current().id());
            if there != here {
                break;
            }
        }
    }

    /// Who waits for a call does what is brought beside it in that call.
    #[test]
    fn a_call_within_the_one_that_is_waited_for_is_taken() {
        let team = Team::leak(1);
        let id = || std::thread::current().id();
        let here = id();
        // Until it has been, however busy the machine.
        loop {
            let nap = || std::thread::sleep(Duration::from_millis(2));
            let (_, (there, within)) = team.beside(1, nap, || {
                nap();
                (id(), team.beside(1, nap, id).1)
            });
            if there != here && within == here {
                break;
            }
        }
    }

    #[test]
    fn a_panic_in_a_call_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::leak(2);
        let fails = |fails: bool| {
            move || {
                assert!(!fails, "this call");
                team.share(20, 2, &|_| ());
                1
            }
        };
        for _ in 0..50 {
            for (work, other) in [(true, false), (false, true), (true, true)] {
                let both = || team.beside(2, fails(work), fails(other));
                let panic = catch_unwind(AssertUnwindSafe(both)).unwrap_err();
                assert!(panic.downcast::<&str>().unwrap().contains("this call"));
                assert_eq!(team.beside(2, fails(false), fails(false)), (1, 1));
            }
        }
    }

    #[test]
    fn a_share_is_taken_from_both_ends() {
        let share = Share::default();
        assert_eq!(share.take(true), None);
        share.fill(3..7);
        let taken = [true, false, false, true, true, false].map(|front| share.take(front));
        assert_eq!(taken, [Some(3), Some(6), Some(5), Some(4), None, None]);
        let last = u32::MAX as usize;
        share.fill(last - 1..last);
        assert_eq!([share.take(false), share.take(true)], [Some(last - 1), None]);
    }

    #[test]
    fn helpers_take_part() {
        let team = Team::leak(1);
        let seen = Mutex::new(std::collections::BTreeSet::new());
        // Until both have been seen, however busy the machine.
        while seen.lock().unwrap().len() < 2 {
            team.share(4, 1, &|_| {
                seen.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
                std::thread::sleep(Duration::from_millis(1));
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::leak(2);
        for bad in 0..20 {
            let share = || team.share(20, 2, &|i| assert_ne!(i, bad, "this piece"));
            let panic = catch_unwind(AssertUnwindSafe(share)).unwrap_err();
            assert!(panic.downcast::<String>().unwrap().contains("this piece"));
            let done = AtomicUsize::new(0);
            team.share(20, 2, &|_| {
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), 20);
        }
    }
}
