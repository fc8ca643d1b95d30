// The main flows with the official Node SDK: `node flows.mjs NAME`, against OPENAI_BASE_URL. A flow that fails throws.
//
// tests/e2e/test_clients.py makes a flow a test each, and says which routes each needs.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ maxRetries: 0 });
const BASE = process.env.MILEPOST_BASE;
/** A job that has succeeded. */
const JOB = process.env.MILEPOST_JOB;
const QUESTION = [{ role: "user", content: "Who are you?" }];
const LINE = '{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n';

const upload = async (text = LINE.repeat(12)) =>
  client.files.create({ file: await toFile(Buffer.from(text), "train.jsonl"), purpose: "fine-tune" });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function collected(pages) {
  const found = [];
  for await (const item of pages) found.push(item);
  return found;
}

async function until(condition, what) {
  for (const end = Date.now() + 120_000; Date.now() < end; await sleep(100)) {
    const found = await condition();
    if (found) return found;
  }
  assert.fail(`waited 120 s for ${what}`);
}

const succeeded = (id) =>
  until(async () => {
    const job = await client.fineTuning.jobs.retrieve(id);
    assert.notEqual(job.status, "failed", JSON.stringify(job.error));
    return job.status === "succeeded" && job;
  }, `job ${id} to succeed`);

const flows = {
  async files() {
    const file = await upload();
    assert.equal(file.status, "processed");
    assert.equal(file.filename, "train.jsonl");
    assert.match(file._request_id, /^req_[0-9a-f]{32}$/);
    assert.deepEqual(await client.files.retrieve(file.id).then((f) => f.bytes), LINE.length * 12);
    assert.equal(await (await client.files.content(file.id)).text(), LINE.repeat(12));
    const second = await upload();
    const ids = (await collected(client.files.list({ limit: 1 }))).map((f) => f.id);
    assert.deepEqual(ids.slice(0, 2), [second.id, file.id]);
    assert.deepEqual(await client.files.delete(file.id).then(({ id, object, deleted }) => ({ id, object, deleted })), {
      id: file.id,
      object: "file",
      deleted: true,
    });
    await assert.rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
  },

  async job() {
    const file = await upload();
    const made = await client.fineTuning.jobs.create({
      model: BASE,
      training_file: file.id,
      suffix: "node",
      seed: 7,
      metadata: { from: "node" },
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
    });
    assert.equal(made.object, "fine_tuning.job");
    const job = await succeeded(made.id);
    assert.match(job.fine_tuned_model, new RegExp(`^ft:${BASE}:personal:node:`));
    const listed = await collected(client.fineTuning.jobs.list({ metadata: { from: "node" } }));
    assert.deepEqual(listed.map((j) => j.id), [job.id]);
    const events = await collected(client.fineTuning.jobs.listEvents(job.id, { limit: 3 }));
    assert.equal(events.at(-1).message, `Created fine-tuning job: ${job.id}`);
    assert.equal(new Set(events.map((e) => e.id)).size, events.length);
    const steps = events.filter((e) => e.type === "metrics").map((e) => e.data.step);
    assert.deepEqual(steps, [6, 5, 4, 3, 2, 1]);
    const checkpoints = await collected(client.fineTuning.jobs.checkpoints.list(job.id, { limit: 1 }));
    assert.deepEqual(checkpoints.map((c) => c.step_number), [6, 3]);
    assert.equal(checkpoints[0].fine_tuned_model_checkpoint, job.fine_tuned_model);
    const csv = Buffer.from(await (await client.files.content(job.result_files[0])).text(), "base64").toString();
    assert.equal(csv.split("\n")[0], "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy");
  },

  async cancel() {
    const file = await upload();
    const job = await client.fineTuning.jobs.create({ model: BASE, training_file: file.id, hyperparameters: { n_epochs: 50 } });
    const cancelled = await client.fineTuning.jobs.cancel(job.id);
    assert.equal(cancelled.status, "cancelled");
    await assert.rejects(client.fineTuning.jobs.cancel(job.id), (error) => {
      assert(error instanceof OpenAI.BadRequestError); // not ConflictError, which the SDK would have sent three times
      assert.match(error.message, new RegExp(job.id));
      return true;
    });
  },

  async chat() {
    const job = await client.fineTuning.jobs.retrieve(JOB);
    const asked = { model: job.fine_tuned_model, messages: QUESTION, max_tokens: 8, temperature: 0 };
    const whole = await client.chat.completions.create(asked);
    assert.equal(whole.object, "chat.completion");
    assert.equal(whole.model, job.fine_tuned_model);
    const chunks = await collected(
      await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } }),
    );
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(chunks.flatMap((c) => c.choices).map((c) => c.delta.content ?? "").join(""), whole.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).usage, whole.usage);
    assert.deepEqual(chunks.at(-1).choices, []);
    const final = await client.chat.completions.stream(asked).finalContent();
    assert.equal(final, whole.choices[0].message.content);
  },

  async checkpoints() {
    const names = (await collected(client.fineTuning.jobs.checkpoints.list(JOB))).map((c) => c.fine_tuned_model_checkpoint);
    assert(names.length > 1);
    const prints = await Promise.all(
      names.map((model) =>
        client.chat.completions.create({ model, messages: QUESTION, max_tokens: 1 }).then((answer) => answer.system_fingerprint),
      ),
    );
    assert.equal(new Set(prints).size, names.length);
  },

  async errors() {
    await assert.rejects(client.chat.completions.create({ model: BASE, messages: [] }), (error) => {
      assert(error instanceof OpenAI.BadRequestError);
      assert.equal(error.status, 400);
      assert.equal(error.type, "invalid_request_error");
      assert.equal(error.param, "messages");
      assert.equal(error.code, "array_below_min_length");
      assert.match(error.message, /array too short/);
      assert.match(error.requestID, /^req_/);
      return true;
    });
    await assert.rejects(new OpenAI({ apiKey: "sk-proj-wrong", maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
    await assert.rejects(client.fineTuning.jobs.retrieve("ftjob-nobody"), (error) => {
      assert(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "fine_tune_not_found");
      return true;
    });
    await assert.rejects(upload("oops\n"), (error) => {
      assert(error instanceof OpenAI.BadRequestError);
      assert.match(error.message, /Line 1 is not a dictionary/);
      return true;
    });
  },

  async models() {
    const ids = (await collected(client.models.list())).map((m) => m.id);
    assert(ids.includes(BASE));
    const tuned = (await collected(client.fineTuning.jobs.checkpoints.list(JOB))).at(-1).fine_tuned_model_checkpoint;
    assert(ids.includes(tuned));
    assert.equal((await client.models.retrieve(tuned)).id, tuned);
    assert.equal((await client.models.delete(tuned)).deleted, true);
    await assert.rejects(client.models.retrieve(tuned), (error) => {
      assert(error instanceof OpenAI.NotFoundError);
      assert.match(error.message, /was deleted on/);
      return true;
    });
  },

  async idempotency() {
    const file = await upload();
    const create = (key) =>
      client.fineTuning.jobs.create(
        { model: BASE, training_file: file.id },
        { headers: { "Idempotency-Key": key } },
      );
    const [first, again, other] = [await create("node-1"), await create("node-1"), await create("node-2")];
    assert.equal(again.id, first.id);
    assert.notEqual(other.id, first.id);
    for (const { id } of [first, other]) await client.fineTuning.jobs.cancel(id);
  },

  async uploads() {
    const parts = [LINE.repeat(5), LINE.repeat(4), LINE.repeat(3)].map((text) => Buffer.from(text));
    const bytes = Buffer.concat(parts);
    const upload = await client.uploads.create({
      bytes: bytes.length,
      filename: "train.jsonl",
      mime_type: "text/jsonl",
      purpose: "fine-tune",
    });
    assert.equal(upload.status, "pending");
    const sent = await Promise.all(
      parts.map(async (data) => client.uploads.parts.create(upload.id, { data: await toFile(data, "part") })),
    );
    const md5 = createHash("md5").update(bytes).digest("hex");
    const done = await client.uploads.complete(upload.id, { part_ids: sent.map((part) => part.id), md5 });
    assert.equal(done.status, "completed");
    assert.equal(await (await client.files.content(done.file.id)).text(), bytes.toString());
    const second = await client.uploads.create({ bytes: 3, filename: "a.jsonl", mime_type: "text/jsonl", purpose: "fine-tune" });
    assert.equal((await client.uploads.cancel(second.id)).status, "cancelled");
    await assert.rejects(client.uploads.complete(second.id, { part_ids: [] }), OpenAI.BadRequestError);
  },

  async pause() {
    const file = await upload();
    const job = await client.fineTuning.jobs.create({ model: BASE, training_file: file.id, hyperparameters: { n_epochs: 50 } });
    await until(
      async () => ["queued", "running"].includes((await client.fineTuning.jobs.retrieve(job.id)).status),
      "the job to leave validation",
    );
    assert.equal((await client.fineTuning.jobs.pause(job.id)).status, "paused");
    await assert.rejects(client.fineTuning.jobs.pause(job.id), OpenAI.BadRequestError);
    assert.equal((await client.fineTuning.jobs.resume(job.id)).status, "queued");
    await succeeded(job.id);
  },

  async permissions() {
    const { fine_tuned_model: model } = await client.fineTuning.jobs.retrieve(JOB);
    const project = await client.admin.organization.projects.create({ name: "other" });
    const account = await client.admin.organization.projects.serviceAccounts.create(project.id, { name: "robot" });
    const stranger = new OpenAI({ apiKey: account.api_key.value, maxRetries: 0 });
    const ask = () => stranger.chat.completions.create({ model, messages: QUESTION, max_tokens: 1 });
    await assert.rejects(ask(), OpenAI.NotFoundError);
    const permissions = client.fineTuning.checkpoints.permissions;
    const [given] = await collected(permissions.create(model, { project_ids: [project.id] }));
    assert.equal(given.project_id, project.id);
    assert.equal((await ask()).model, model);
    assert.deepEqual((await collected(permissions.list(model))).map((p) => p.id), [given.id]);
    assert.equal((await permissions.delete(given.id, { fine_tuned_model_checkpoint: model })).deleted, true);
    await assert.rejects(ask(), OpenAI.NotFoundError);
  },
};

await flows[process.argv[2]]();
