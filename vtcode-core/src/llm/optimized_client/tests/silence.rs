//! What is told while nothing comes.

use super::*;

#[tokio::test]
async fn a_wait_that_lasts_is_told_with_its_clock_and_ends_with_it() {
    let ms = Duration::from_millis;
    let limits = ClientLimits {
        silence: ms(40),
        connect: ms(500),
        first_byte: ms(10),
        gap: ms(200),
        attempts: 2,
        ..limits()
    };
    let server =
        Server::start([vec![Step::Hang], vec![stream_head(), words("a"), Step::Hang]]).await;
    let (told, error) = events(&server.client_with(Wire::OpenAiChat, limits.clone())).await;
    assert!(matches!(error, Some(LlmError::TimedOut { clock: Clock::Gap, .. })), "{error:?}");
    let silences: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            StreamEvent::Silent(silence) => Some(*silence),
            _ => None,
        })
        .collect();
    let of = |clock| silences.iter().filter(|silence| silence.clock == clock).count();
    // After 40, 80, 160, 320 of 510, and after 40, 80, 160 of 200; fewer when the machine is slow.
    assert!((1..=4).contains(&of(Clock::FirstByte)), "{silences:?}");
    assert!((1..=3).contains(&of(Clock::Gap)), "{silences:?}");
    assert!(silences.iter().all(|silence| silence.elapsed >= ms(40)), "{silences:?}");
    assert_eq!(silences.last().unwrap().limit, ms(200));

    let quiet = ClientLimits { silence: Duration::ZERO, ..limits };
    let server = Server::start([vec![Step::Hang], vec![stream_head(), Step::Hang]]).await;
    let (told, _) = events(&server.client_with(Wire::OpenAiChat, quiet)).await;
    assert!(!told.iter().any(|event| matches!(event, StreamEvent::Silent(_))), "{told:?}");
}
