/** Which pairs each optimizer step sees. */
import { hashSeed, seededRandom, shuffled } from "../random.js";

export interface PairOrderOptions {
  pairs_per_step: number;
  num_epochs: number;
  /** 0: as the epochs give. */
  max_steps: number;
  shuffle: boolean;
  seed: number;
}

/** Every epoch goes through all rows once, in an order of its own; its last step may hold fewer pairs. */
export class PairOrder {
  readonly totalSteps: number;
  readonly stepsPerEpoch: number;
  #epoch = -1;
  #order: readonly number[] = [];

  constructor(private readonly rows: readonly number[], private readonly options: PairOrderOptions) {
    this.stepsPerEpoch = Math.ceil(rows.length / options.pairs_per_step);
    this.totalSteps = options.max_steps > 0 ? options.max_steps : options.num_epochs * this.stepsPerEpoch;
  }

  /** Rows of step `step`, counted from 1. */
  rowsOf(step: number): number[] {
    const epoch = Math.floor((step - 1) / this.stepsPerEpoch);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = this.options.shuffle ? shuffled(this.rows, seededRandom(hashSeed("pairs", this.options.seed, epoch))) : this.rows;
    }
    const begin = ((step - 1) % this.stepsPerEpoch) * this.options.pairs_per_step;
    return this.#order.slice(begin, begin + this.options.pairs_per_step);
  }

  /** Epochs done after `step` steps, as TRL's metrics count them. */
  epochAfter(step: number): number {
    const full = Math.floor(step / this.stepsPerEpoch);
    const seen = (step % this.stepsPerEpoch) * this.options.pairs_per_step;
    return full + seen / this.rows.length;
  }
}
