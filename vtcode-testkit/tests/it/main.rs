//! The scripted model, spoken to byte by byte over a plain socket, as no client library would
//! allow. Each module tells what one side of it promises.

mod client;
mod connections;
mod faults;
mod wires;
