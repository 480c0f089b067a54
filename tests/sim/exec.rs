//! A deterministic executor in virtual time: tasks are futures, time jumps to the next timer when nothing can run, and
//! of the tasks that can run a seeded draw picks one, so that a seed is also an order of threads.
//!
//! 1. The same seed gives the same run.
//! 2. A crash drops every task of its owner where it stands.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// Whose a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Wires, workloads, operators: no crash ends them.
    World,
    /// The daemon of a site.
    Site(usize),
}

struct Task {
    owner: Owner,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

type Ready = Arc<Mutex<Vec<u64>>>;

struct Ring {
    id: u64,
    ready: Ready,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap();
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

/// The executor.
pub struct Exec {
    now: Cell<u64>,
    ids: Cell<u64>,
    draws: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Ready,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    killed: Cell<Option<Owner>>,
    /// Polls so far.
    pub events: Cell<u64>,
}

impl Exec {
    pub fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(0),
            ids: Cell::new(0),
            draws: Cell::new(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d),
            tasks: RefCell::default(),
            ready: Ready::default(),
            timers: RefCell::default(),
            killed: Cell::new(None),
            events: Cell::new(0),
        })
    }

    /// True time, in milliseconds.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// A number below `bound` (`SplitMix64`).
    pub fn draw(&self, bound: u64) -> u64 {
        let state = self.draws.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.draws.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    pub fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        let id = self.next_id();
        self.tasks.borrow_mut().insert(id, Task { owner, future: Box::pin(future) });
        self.ready.lock().unwrap().push(id);
    }

    /// Drops every task of `owner`; the one that is running, once it gives up the processor.
    pub fn kill(&self, owner: Owner) {
        let gone: Vec<Task> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<u64> =
                tasks.iter().filter(|(_, task)| task.owner == owner).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        drop(gone);
        self.killed.set(Some(owner));
    }

    /// Polls one task; `false` if nothing is left to do until `until`.
    pub fn step(&self, until: u64) -> bool {
        loop {
            let picked = {
                let mut ready = self.ready.lock().unwrap();
                let count = ready.len() as u64;
                (count > 0).then(|| ready.swap_remove(self.draw(count) as usize))
            };
            let Some(id) = picked else {
                let first = self.timers.borrow().keys().next().copied();
                let Some(key) = first.filter(|(at, _)| *at <= until) else {
                    self.now.set(until);
                    return false;
                };
                self.now.set(key.0.max(self.now()));
                let waker = self.timers.borrow_mut().remove(&key);
                waker.into_iter().for_each(Waker::wake);
                continue;
            };
            let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { continue };
            self.killed.set(None);
            self.events.set(self.events.get() + 1);
            let waker = Waker::from(Arc::new(Ring { id, ready: self.ready.clone() }));
            let is_over = task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            if !is_over && self.killed.get() != Some(task.owner) {
                self.tasks.borrow_mut().insert(id, task);
            }
            return true;
        }
    }

    /// Ends `millis` of true time later.
    pub fn sleep(self: &Rc<Self>, millis: u64) -> Sleep {
        Sleep { exec: self.clone(), at: self.now() + millis, is_set: false }
    }
}

/// See [`Exec::sleep`].
pub struct Sleep {
    exec: Rc<Exec>,
    at: u64,
    is_set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_set && self.exec.now() >= self.at {
            return Poll::Ready(());
        }
        // Also a pause of nothing lets others run.
        if !self.is_set {
            self.is_set = true;
            let id = self.exec.next_id();
            self.exec.timers.borrow_mut().insert((self.at, id), context.waker().clone());
        }
        Poll::Pending
    }
}
