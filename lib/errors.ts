/** Errors that reach the user. Each says what, where, expected, found and what to do; the CLI turns them into exit codes. */

export interface ErrorFacts {
  /** What went wrong, one sentence. */
  what: string;
  /** File, line, flag, config key or URL. */
  where?: string | undefined;
  expected?: string | undefined;
  found?: string | undefined;
  /** What the user can do about it. */
  todo?: string | undefined;
  cause?: unknown;
}

function text(f: ErrorFacts): string {
  return [
    f.where === undefined ? f.what : `${f.where}: ${f.what}`,
    f.expected === undefined ? undefined : `  expected: ${f.expected}`,
    f.found === undefined ? undefined : `  found:    ${f.found}`,
    f.todo === undefined ? undefined : `  to do:    ${f.todo}`,
  ].filter((line) => line !== undefined).join("\n");
}

/** A failure while doing what was asked: exit code 1. */
export class RlhiError extends Error {
  override readonly name: string = "RlhiError";
  readonly exitCode: number = 1;
  constructor(readonly code: string, readonly facts: ErrorFacts) {
    super(text(facts), facts.cause === undefined ? undefined : { cause: facts.cause });
  }
}

/** Wrong arguments or configuration: exit code 2. */
export class UsageError extends RlhiError {
  override readonly name = "UsageError";
  override readonly exitCode = 2;
  constructor(facts: ErrorFacts) {
    super("ERR_USAGE", facts);
  }
}
