"""What the examples start from, where you have your own: scans of handwritten digits, a teacher and a student."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import svdistill

BATCH = 50
WEIGHT = 4 * BATCH  # 4 for a sum over the batch, as published; SVDLoss takes the mean


def scans() -> tuple[TensorDataset, TensorDataset]:
    """Return standardized images (N, 1, 16, 16) with their labels: to train with, and held out."""
    digits = svdistill.data.load("digits", image_size=16)
    mean, std = svdistill.data.channel_statistics(digits.train)
    train, test = (
        TensorDataset(svdistill.data.standardize(part.images, mean, std), part.labels)
        for part in (digits.train.subset(600, seed=0), digits.test.subset(300, seed=0))
    )
    return train, test


def trained_teacher(train: TensorDataset, *, epochs: int = 3) -> nn.Module:
    """Return a network that has learnt the digits; yours comes from timm, or from a file."""
    torch.manual_seed(0)
    teacher = svdistill.nets.create("vgg-bn-teacher", num_classes=10, in_channels=1, width=0.15)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for images, labels in DataLoader(train, batch_size=BATCH, shuffle=True):
            nn.functional.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return teacher


def new_distiller(train: TensorDataset) -> svdistill.Distiller:
    """Return a narrower student with this teacher: what learns is the student, and adapters where widths differ."""
    torch.manual_seed(1)
    student = svdistill.nets.create("vgg-bn-student", num_classes=10, in_channels=1, width=0.1)
    distiller = svdistill.Distiller(
        student,
        trained_teacher(train),
        loss=svdistill.SVDLoss(rank=8, basis="teacher"),
        # The ends of their blocks, and last what their output layers read.
        student_taps=("block1", "block2", "block3", "block4", "classifier.relu1"),
        teacher_taps=("block1", "block2", "block3", "block4", "classifier.relu2"),
    )
    distiller.prepare(train.tensors[0][:2])  # makes the adapters: before the optimizer
    return distiller.train()


@torch.no_grad()
def accuracy(student: nn.Module, test: TensorDataset) -> float:
    """Return the percentage of held-out images that the student names rightly."""
    images, labels = test.tensors
    return 100 * float((student.eval()(images).argmax(1) == labels).float().mean())
