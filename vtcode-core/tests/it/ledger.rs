//! What requests cost: each attempt at its model's price, those that broke off among them.

use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::{Limits, Price};
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::{End, Limit};
use vtcode_core::llm::message::{Attempt, Outcome};
use vtcode_testkit::{Fault, Reply, say};

use crate::session::{ALL, Session, full, plain};

/// A dollar for a thousand tokens in, ten for a thousand out.
const PRICE: Price = Price { input: 1000.0, cached: 100.0, output: 10_000.0 };

fn priced(mut limits: Limits, max_cost_usd: Option<f64>) -> Limits {
    limits.agent.max_cost_usd = max_cost_usd;
    limits.client.price = Some(PRICE);
    limits
}

fn attempts(session: &Session) -> Vec<Attempt> {
    let kinds = session.kinds().into_iter();
    let attempts = kinds.filter_map(|kind| match kind {
        EventKind::AttemptEnded(attempt) => Some(attempt),
        _ => None,
    });
    attempts.collect()
}

/// An answer that tells what it reads at its beginning, as Anthropic's do, and breaks off.
fn half(wire: Wire) -> Reply {
    let events = match wire {
        Wire::OpenAiResponses => 6,
        Wire::Anthropic => 4,
        Wire::Gemini => 1,
        _ => 2,
    };
    let words = "An answer that never comes to its end, however long one waits for it.";
    say(words).usage(100_000, 0, 50).fault(Fault::CutAfterEvents(events))
}

#[tokio::test]
async fn every_attempt_has_its_cost_and_the_sum_is_what_was_billed() {
    for limits in [full(), plain()] {
        let replies = vec![half(Wire::Anthropic), say("Done.").usage(100_000, 90_000, 5)];
        let session = Session::new(Wire::Anthropic, priced(limits, None), replies).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
        let attempts = attempts(&session);
        let told: Vec<_> = attempts.iter().map(|a| (a.outcome, a.usage.input_tokens)).collect();
        assert_eq!(told, [(Outcome::Broken, 100_000), (Outcome::Done, 100_000)]);
        assert!(attempts.iter().all(|attempt| attempt.model == "scripted"));
        let costs: Vec<_> = attempts.iter().map(|attempt| attempt.cost_usd.unwrap()).collect();
        // 100 and what it had said of its output; 10, 9 for what was kept, and 5 hundredths.
        assert!((100.0..=100.5).contains(&costs[0]), "{costs:?}");
        assert!((costs[1] - 19.05).abs() < 1e-9, "{costs:?}");
        assert!((outcome.cost_usd.unwrap() - costs.iter().sum::<f64>()).abs() < 1e-9);
        assert!(attempts.iter().all(|attempt| attempt.first_byte.is_some()));
        assert!(attempts[1].per_token().is_some());
    }
}

#[tokio::test]
async fn what_a_broken_answer_cost_counts_against_the_bound() {
    for wire in ALL {
        let session = |max| {
            let replies = vec![half(wire), say("Done.").usage(100, 0, 1)];
            Session::new(wire, priced(full(), Some(max)), replies)
        };
        // Enough for one such request: the second one is not sent, whether or not the wire told what
        // the first one used.
        let first = {
            let session = session(1e9).await;
            session.run(&["go"]).await;
            assert_eq!(session.model.requests().len(), 2, "{wire}");
            session.model.requests()[0].body.len() as f64 / 4.0 / 1000.0
        };
        let max = first * 1.5;
        let session = session(max).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Limit(Limit::Cost(max))), "{wire}");
        assert_eq!(session.model.requests().len(), 1, "{wire}");
    }
}
