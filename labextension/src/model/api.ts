/** What the model asks of the server; `rest.ts` is the one place that does so over HTTP. */

import {
  IExplanation,
  IPage,
  IPlan,
  IProfile,
  IProposal,
  IState
} from './wire';

/** Part of a record to permit: these numbers, or everything since the kernel started. */
export type Selection = readonly number[] | null;

export interface IApi {
  kernels(): Promise<IState[]>;
  plan(kernelId: string): Promise<IPlan | null>;
  alerts(kernelId: string, after: number, limit: number): Promise<IPage>;
  explain(kernelId: string, seq: number): Promise<IExplanation>;
  profiles(): Promise<IProfile[]>;
  preview(kernelId: string, seqs: Selection): Promise<IProposal>;
  save(
    kernelId: string,
    seqs: Selection,
    name: string,
    title: string
  ): Promise<{ name: string; directory: string }>;
  /** @param profile null keeps the one that the kernel has */
  restart(
    kernelId: string,
    profile: string | null,
    record: boolean
  ): Promise<IState>;
  /** Whether the server still knows who is asking. */
  signedIn(): Promise<boolean>;
}

/** The server answered with an error, or not at all (`status` 0). The message is for the user. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string
  ) {
    super(message);
    this.name = 'ApiError';
  }
}
