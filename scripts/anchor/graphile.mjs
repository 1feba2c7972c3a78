// graphile-worker at its best, for a figure beside ours. `add COUNT` puts jobs into the queue, `work` does them all; each
// prints how many seconds that took. The database is the one PGURL names.
import pg from "pg";
import { Logger, makeWorkerUtils, run } from "graphile-worker";

const connectionString = process.env.PGURL;
const [command, count] = [process.argv[2], Number(process.argv[3])];
// Standard output is for the result, and a line a job is not what is measured.
const logger = new Logger(() => (level, message) => level === "error" && console.error(message));
// About 570 bytes of JSON, as our events are.
const payload = { event: "goal_completion", text: "x".repeat(530) };
const BATCH = 1000;

async function add() {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  const began = performance.now();
  for (let added = 0; added < count; added += BATCH) {
    const size = Math.min(BATCH, count - added);
    await utils.addJobs(Array.from({ length: size }, () => ({ identifier: "nothing", payload })));
  }
  const seconds = (performance.now() - began) / 1000;
  // As autovacuum does in time: without it the planner takes the table for empty, and a job costs five times as much.
  await utils.withPgClient((client) => client.query("vacuum analyze graphile_worker._private_jobs"));
  await utils.release();
  return seconds;
}

// From the first job that begins to the moment the last one is gone from the database.
async function work() {
  const pool = new pg.Pool({ connectionString, max: 1 });
  const left = async () => Number((await pool.query("select count(*) from graphile_worker.jobs")).rows[0].count);
  const total = await left();
  let [began, done, finish] = [undefined, 0, undefined];
  const finished = new Promise((resolve) => (finish = resolve));
  const nothing = async () => {
    began ??= performance.now();
    done += 1;
    if (done === total) finish();
  };
  const worker = {
    connectionString,
    concurrentJobs: 24,
    maxPoolSize: 26,
    localQueue: { size: 500 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    logger,
  };
  const runner = await run({ preset: { worker }, taskList: { nothing }, noHandleSignals: true });
  await finished;
  while ((await left()) > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const seconds = (performance.now() - began) / 1000;
  await runner.stop();
  await pool.end();
  return seconds;
}

console.log(JSON.stringify({ seconds: await (command === "add" ? add() : work()) }));
