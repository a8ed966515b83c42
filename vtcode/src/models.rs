//! `vtcode models`: what is known of models, and where it is known from.

use std::io::{self, Write as _};

use serde_json::json;
use vtcode_core::config::env::Env;
use vtcode_core::config::named;
use vtcode_core::llm::models::{self, Listed, READ};

use crate::args::Models;
use crate::exit::Exit;
use crate::setup;
use crate::terminal::clean;

pub(crate) fn run(args: &Models) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let settings = setup::settings(&setup::folder(None)?, None, &env)?;
    let wanted = args.name.as_deref().unwrap_or_default();
    let mut listed = models::list(&settings);
    listed.retain(|model| model.name.contains(wanted));
    let text = if args.json { shown_as_json(&listed) } else { shown(&listed) };
    // Who closed the pipe has seen enough.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(Exit::Done)
}

fn source(model: &Listed) -> String {
    match (model.own, model.wire) {
        (false, _) => format!("built in, {READ}"),
        (true, Some(_)) => format!("your file, over {READ}"),
        (true, None) => "your file".to_owned(),
    }
}

fn shown(listed: &[Listed]) -> String {
    let head = ["model", "provider", "context", "output", "in", "cached", "out", "images", "notes"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows[0].push("from".to_owned());
    for model in listed {
        let facts = &model.facts;
        let known = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        let price = |of: fn(&vtcode_core::config::limits::Price) -> f64| {
            known(facts.price.as_ref().map(|price| of(price).to_string()))
        };
        let images = match facts.images {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        let thinks = named::thinking_word(facts.thinking).filter(|word| *word != "none");
        let mut notes: Vec<_> = thinks.map(|word| format!("effort: {word}")).into_iter().collect();
        if facts.fixed_temperature {
            notes.push("no temperature".to_owned());
        }
        rows.push(vec![
            clean(&model.name),
            model.wire.map_or_else(|| "?".to_owned(), |wire| wire.to_string()),
            known(facts.context_window.map(|tokens| tokens.to_string())),
            known(facts.max_output.map(|tokens| tokens.to_string())),
            price(|price| price.input),
            price(|price| price.cached),
            price(|price| price.output),
            images.to_owned(),
            if notes.is_empty() { "-".to_owned() } else { notes.join(", ") },
            source(model),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..rows[0].len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Numbers stand at the right of their columns.
            if (2..7).contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let line: Vec<_> = cells.collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text.push_str(
        "Tokens; US dollars for a million tokens. A name holds for all that begin with it, the longest \
         counts; what\nyou know goes before it: [models.\"NAME\"] in your own vtcode.toml.\n",
    );
    text
}

fn shown_as_json(listed: &[Listed]) -> String {
    let model = |model: &Listed| {
        let facts = &model.facts;
        let price = facts.price.map(
            |price| json!({"input": price.input, "cached": price.cached, "output": price.output}),
        );
        json!({
            "name": model.name,
            "provider": model.wire.map(|wire| wire.to_string()),
            "context_window": facts.context_window,
            "max_output": facts.max_output,
            "price": price,
            "images": facts.images,
            "temperature": !facts.fixed_temperature,
            "effort": named::thinking_word(facts.thinking),
            "source": source(model),
        })
    };
    let models: Vec<_> = listed.iter().map(model).collect();
    format!("{}\n", json!({"read": READ, "models": models}))
}
