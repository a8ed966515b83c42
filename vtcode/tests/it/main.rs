//! The program as its users meet it: the real binary as a child process, with a home of its own,
//! against a scripted model on loopback.

mod answers;
mod checks;
mod client;
mod configuration;
mod context;
mod crash;
mod demo;
mod doctor;
mod failures;
mod fallback;
mod fallbacks;
mod idle;
mod images;
mod interrupt;
mod json;
mod keys;
mod limits;
mod local;
mod models;
mod perf;
mod policy;
mod provider;
mod reload;
mod replay;
mod resume;
mod schema;
mod screen;
mod secrets;
mod sessions;
mod state;
mod tools;
mod undo;
mod user;
