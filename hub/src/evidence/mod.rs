//! The tree over the journal's records, and the receipts made of it.
