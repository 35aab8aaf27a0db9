"""What is known of the watched files, and what follows from news of them.

`engine` joins what knows nothing of each other, and gives each its turn:

- `sweeps` looks through folders, and `looks` says what follows from a look at a name, by `view` and `away` (what
  may only be out of view), `arrivals` (what is new) and `failures` (what lorad fails at);
- `names` has names lead to files, which are `records`, all of them in `known_files`;
- `executor` is the state machine and its instructions, `reads` what is to be read for it (`questions`, by their
  `plans`, in `lanes`), and `results` what came of that;
- `commits` is what the catalogue keeps.

Nothing here knows of de-duplication: what that has hidden is told to `hiding`, and what it asks is in `holders`.
"""
