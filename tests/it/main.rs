//! Situations that a hub gets into, through its public faces.

mod allowance;
mod architecture;
mod backup;
mod concurrency;
mod corpora;
mod counts;
mod crash;
mod documents;
mod exchange;
mod golden;
mod hostile;
mod mailbox;
mod proofs;
mod real_disk;
mod reconcile;
mod refusals;
mod retention;
mod rights;
mod secrets;
mod seeded;
mod streams;
mod upgrade;
