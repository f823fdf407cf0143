-- A database as version 1 of the schema left it: one job between two attempts, one answered request.
-- Written once, by hand; never changed with the schema.
PRAGMA journal_mode=WAL;
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs(
  id TEXT PRIMARY KEY, name TEXT NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL,
  create_time INTEGER NOT NULL, next_sequence INTEGER NOT NULL, revision INTEGER NOT NULL,
  failures INTEGER NOT NULL, not_before INTEGER, cancel_message TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX jobs_by_state ON jobs(state);
CREATE INDEX jobs_by_time ON jobs(create_time, id);
CREATE TABLE labels(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY(job_id, key)) WITHOUT ROWID;
CREATE TABLE attempts(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, number INTEGER NOT NULL,
  token TEXT NOT NULL, handle TEXT NOT NULL, ended INTEGER NOT NULL, doom INTEGER,
  doom_message TEXT NOT NULL, end_code INTEGER, fault_code INTEGER, fault_message TEXT NOT NULL,
  PRIMARY KEY(job_id, number)) WITHOUT ROWID;
CREATE TABLE events(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, sequence INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, sequence)) WITHOUT ROWID;
CREATE TABLE steps(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  attempt INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE evals(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE checkpoints(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, step INTEGER NOT NULL,
  body BLOB NOT NULL, PRIMARY KEY(job_id, step)) WITHOUT ROWID;
CREATE TABLE cursors(
  job_id TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE, attempt INTEGER NOT NULL,
  rank INTEGER NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY(job_id, attempt, rank)) WITHOUT ROWID;
CREATE TABLE requests(
  request_id TEXT PRIMARY KEY, method TEXT NOT NULL, body_hash TEXT NOT NULL, job_id TEXT NOT NULL,
  response BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('schema_version', 1);
INSERT INTO jobs VALUES('job-1', 'old', 2, 0, 1700000000000000000, 3, 4, 2, NULL, '', x'0a056a6f622d3112036f6c642802');
INSERT INTO attempts VALUES('job-1', 1, 'token', 'local:/x', 1, 1, 'rank 1 hangs', NULL, NULL, '');
INSERT INTO requests VALUES('r', 'CreateJob', 'hash', 'job-1', x'');
