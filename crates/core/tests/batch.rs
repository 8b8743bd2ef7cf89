//! `Batch` against a list: every request is in one batch or withdrawn, in order, never in one that is too big or too late.

use loopwright_core::batch::Batch;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Add,
    Withdraw(usize),
    Flush,
    End,
    Wait(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Add),
        2 => any::<usize>().prop_map(Event::Withdraw),
        1 => Just(Event::Flush),
        3 => Just(Event::End),
        3 => (1_u32..12).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn every_request_is_in_one_batch_in_order_and_in_time(
        max_size in 1_usize..6, max_running in 1_usize..4, delay in 0_u32..10,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let max_delay = f64::from(delay);
        let mut batch = Batch::new(max_size, max_delay, max_running);
        let mut now = 0.0;
        let mut waiting: Vec<(u64, f64)> = Vec::new(); // and when each is due
        let mut seen = Vec::new();
        let mut running = 0;
        for event in events {
            match event {
                Event::Add => {
                    waiting.push((batch.add(now), now + max_delay));
                    prop_assert!(waiting.len() >= max_size || batch.run_full().is_none());
                }
                Event::Withdraw(any) if !waiting.is_empty() => {
                    let (ticket, _) = waiting.remove(any % waiting.len());
                    prop_assert!(batch.withdraw(ticket));
                    prop_assert!(!batch.withdraw(ticket));
                }
                Event::Flush => {
                    batch.flush();
                    waiting.iter_mut().for_each(|(_, due)| *due = due.min(now));
                }
                Event::End if running > 0 => { batch.ended(); running -= 1; }
                Event::Wait(ticks) => now += f64::from(ticks),
                Event::Withdraw(_) | Event::End => {}
            }
            while let Some(tickets) = batch.run(now) {
                prop_assert!(tickets.len() <= max_size && !tickets.is_empty());
                let full = tickets.len() == max_size;
                prop_assert!(full || waiting[0].1 <= now, "not full and nobody has waited long enough");
                let expected: Vec<u64> = waiting.drain(..tickets.len()).map(|(ticket, _)| ticket).collect();
                prop_assert_eq!(&tickets, &expected);
                prop_assert!(tickets.iter().all(|&ticket| !batch.withdraw(ticket)));
                seen.extend(tickets);
                running += 1;
                prop_assert!(running <= max_running);
            }
            prop_assert_eq!((batch.waiting(), batch.running()), (waiting.len(), running));
            prop_assert!(seen.is_sorted());
            if running < max_running {
                prop_assert!(waiting.len() < max_size, "a full batch runs at once");
                prop_assert!(waiting.iter().all(|&(_, due)| due > now), "nobody waits longer than that");
                match batch.wake_at() {
                    Some(at) => prop_assert!(at > now && waiting.iter().all(|&(_, due)| due >= at)),
                    None => prop_assert!(waiting.is_empty()),
                }
            } else {
                prop_assert_eq!(batch.wake_at(), None);
            }
        }
    }
}
