//! Messages on their way into the conversation: rendered once, with the bytes of their images, which
//! lie in the session's folder where the message holds only a reference.

use std::borrow::Cow;
use std::path::Path;

use bytes::Bytes;

use super::super::{AnswerSchema, OptimizedAgentEngine};
use crate::core::conversation::{Conversation, RequestBody};
use crate::core::journal::load_images;
use crate::llm::message::{Images, Message, Setup, ToolChoice};
use crate::llm::provider::Provider;

/// Returns a message as the wire sends it, and the images in it.
pub(super) fn rendered(provider: &dyn Provider, message: &Message) -> (Bytes, Images) {
    (provider.segment(message), images(provider, message))
}

/// Returns the images of a message that are sent.
fn images(provider: &dyn Provider, message: &Message) -> Images {
    let mut images = Images::default();
    if provider.images().taken {
        let sent = message.images().iter().filter(|image| image.data().is_some());
        sent.for_each(|image| images += Images::of(std::slice::from_ref(image)));
    }
    images
}

/// Adds a message to a conversation; returns how many of its images are gone from the folder.
pub(super) fn push(
    conversation: &mut Conversation,
    provider: &dyn Provider,
    folder: Option<&Path>,
    message: &Message,
) -> usize {
    let mut message = Cow::Borrowed(message);
    let lacks = |message: &Message| message.images().iter().any(|image| image.data().is_none());
    let gone = match folder {
        Some(folder) if lacks(&message) => load_images(folder, message.to_mut()),
        _ => message.images().iter().filter(|image| image.data().is_none()).count(),
    };
    conversation.render(images(provider, &message), |onto| provider.render(&message, onto));
    gone
}

/// Returns the request that a conversation makes; where the model is told whether to call a tool,
/// that stands behind it.
pub(super) fn framed(
    provider: &dyn Provider,
    conversation: &Conversation,
    choice: &ToolChoice,
    engine: &OptimizedAgentEngine,
) -> RequestBody {
    if *choice == ToolChoice::Auto {
        return provider.frame(conversation);
    }
    let answer_schema = engine.answer_schema.as_ref().map(AnswerSchema::schema);
    let tools = engine.pipeline.registry().specs();
    let setup = Setup { tools, answer_schema, ..Setup::default() };
    provider.frame_choosing(conversation, choice, &setup)
}
