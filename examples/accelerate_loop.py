"""Accelerate, with two passes a step: `accelerate launch examples/accelerate_loop.py`, or `python` for one process."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import svdistill
from digits import BATCH, WEIGHT, accuracy, new_distiller, scans

PASSES = 2
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PASSES)  # mixed_precision: as you like
train, test = scans()
distiller = new_distiller(train)
optimizer = torch.optim.SGD(distiller.parameters(), lr=0.02, momentum=0.9)
loader = DataLoader(train, batch_size=BATCH // PASSES // accelerator.num_processes, shuffle=True)
model, optimizer, loader = accelerator.prepare(distiller, optimizer, loader)
# Keeps both gradients of all passes apart, and combines them in the last: the bound is on the whole batch.
backward = svdistill.training.Backward(optimizer, scaler=accelerator.scaler)
for epoch in range(4):
    for images, labels in loader:
        with accelerator.accumulate(model):
            output = model(images)
            main = cross_entropy(output.logits, labels)
            # in place of accelerator.backward
            backward(main / PASSES, WEIGHT * output.transfer / PASSES, last=accelerator.sync_gradients)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(f"epoch {epoch}: main {main.detach():.3f}, transfer {output.transfer.detach():.4f}")
accelerator.print(f"accuracy {accuracy(accelerator.unwrap_model(model).student, test):.1f} %")
